"""The HTTP side of the service: connections, access checks, request bodies, routes and their documentation."""
