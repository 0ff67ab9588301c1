"""A whole step in one C++ function: ``packing`` lays weights out, ``build`` compiles, ``library`` calls.

The sources are plain C++17 without anybody's headers. They are compiled for the instruction set of this machine and
loaded with ctypes; what crosses the border are the records of ``interface.h``.
"""
