//! Black-box conformance checks of a running edge; nothing here imports the server.
