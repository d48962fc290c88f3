"""An HTTP/1.1 client for thousands of concurrent requests on one thread."""
