"""Rules of the product as pure functions, without input or output."""
