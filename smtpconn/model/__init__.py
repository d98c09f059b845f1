"""Values without I/O: addresses, parameters, content, replies, results and errors."""
