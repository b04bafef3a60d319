"""What the OpenAPI document says of each route, a module for each protocol.

The handlers read raw requests, so FastAPI cannot infer these; tests hold the document to the
routes and real answers to its schemas.
"""
