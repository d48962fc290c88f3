"""Forms of the admin UI: parse submitted fields and report what is wrong with them."""
