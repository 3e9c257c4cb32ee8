// A broadcast server on Socket.IO, tuned as its "Performance tuning" and "Memory usage" pages advise: WebSocket alone,
// bufferutil, no compression, no served client, the first request let go of.
//     node socket_io.mjs PORT [CERTIFICATE KEY]
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { Server } from 'socket.io';

const [port, cert, key] = process.argv.slice(2);
const server = cert
    ? https.createServer({ cert: readFileSync(cert), key: readFileSync(key) })
    : http.createServer();
const io = new Server(server, {
    transports: ['websocket'],
    perMessageDeflate: false,
    httpCompression: false,
    serveClient: false,
});
io.engine.on('connection', (socket) => {
    socket.request = null;
});
io.on('connection', (socket) => {
    socket.on('join', (channel, acknowledge) => {
        socket.join(channel);
        acknowledge();
    });
    socket.on('pub', (channel, data) => {
        io.to(channel).emit('m', data);
    });
});
server.listen({ port: Number(port), host: '127.0.0.1', backlog: 4096 });
