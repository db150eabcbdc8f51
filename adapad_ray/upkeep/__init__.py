"""What sweeps leave on a machine: `adapad clean`."""
