//! Tidegate: a realtime edge that serves one channel model over WebSocket, SSE and long polling.
