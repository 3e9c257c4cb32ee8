// A broadcast server on `ws`, as its README has it ("Server broadcast"), with a room per URL. Compression is off, as it
// is by default, and no second list of clients is kept.
//     node ws.mjs PORT [CERTIFICATE KEY]
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { WebSocket, WebSocketServer } from 'ws';

const [port, cert, key] = process.argv.slice(2);
const server = cert
    ? https.createServer({ cert: readFileSync(cert), key: readFileSync(key) })
    : http.createServer();
const sockets = new WebSocketServer({ server, perMessageDeflate: false, clientTracking: false });
const rooms = new Map();

function subscribe(socket, channel) {
    if (!rooms.has(channel)) rooms.set(channel, new Set());
    const room = rooms.get(channel);
    room.add(socket);
    socket.on('close', () => {
        room.delete(socket);
        if (room.size === 0 && rooms.get(channel) === room) rooms.delete(channel);
    });
    socket.send('joined');
}

function publish(message) {
    const end = message.indexOf(10);
    const data = message.subarray(end + 1);
    for (const socket of rooms.get(message.toString('latin1', 0, end)) ?? []) {
        if (socket.readyState === WebSocket.OPEN) socket.send(data, { binary: false });
    }
}

sockets.on('connection', (socket, request) => {
    const [, role, channel] = request.url.split('/');
    socket.on('error', () => socket.terminate());
    if (role === 'sub') subscribe(socket, channel);
    else socket.on('message', publish);
});
server.listen({ port: Number(port), host: '127.0.0.1', backlog: 4096 });
