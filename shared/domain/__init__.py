"""Pure rules of the product, without input or output."""
