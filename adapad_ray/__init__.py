"""adapad-ray: how small can an adapter be, which method gets there, and where should its parameters go?"""

__version__ = "0.1.0"
