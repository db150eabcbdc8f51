"""The frozen linear layers of a backbone, whatever the form of their weight."""
