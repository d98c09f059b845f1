"""One SMTP or LMTP session: how it is opened, its operations, and the driver that runs them."""
