"""A Mixture-of-Experts character language model, built chapter by chapter.

Importing the package imports nothing heavy; import the module of the chapter that you need, such as
`moe_tutorial.moe`. Reading order = chapter order = import order; see README.md.
"""

__version__ = "0.2.0"
