"""What developers and tests run beside the product: the local stack and the simulated provider.

Nothing in `api`, `worker` or `shared` imports from here.
"""
