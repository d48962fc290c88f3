"""Stands before the library of that name, which belongs to the test tools.

structlog imports it wherever it is installed, which takes a sixth of the time in which a worker
starts. The product's image does not have it.
"""

raise ImportError("the product's image does not have it")
