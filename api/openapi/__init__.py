"""The OpenAPI document, generated from the views, and the Swagger UI that shows it."""
