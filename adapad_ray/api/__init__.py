"""The Python API, re-exported by the package: `import adapad_ray as ar`.

`train` trains one adapter in this process, `attach` trains one inside a loop of the user's own, `plan`, `sweep` and
`load_sweep` are the commands of the same names, and `predict` and `compress` use an adapter that exists.
"""
