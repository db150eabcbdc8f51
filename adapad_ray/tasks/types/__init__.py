"""Task types, one file each; `registry.TYPES` lists them and `tasks/README.md` tells how to add one."""
