"""Runs a sweep as a job of a remote Ray cluster: `package` the files, `job_server` to submit, `entrypoint` to start."""
