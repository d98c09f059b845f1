"""SASL mechanisms and credentials (RFC 4422, RFC 4954): no commands, no I/O."""
