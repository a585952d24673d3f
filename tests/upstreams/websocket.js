// An API with WebSockets, and a page for a browser.
//
//     node websocket.js PORT
//
// A WebSocket gets `hello USER` first, and then each of its messages back.
const { createServer } = require('http');
const { WebSocketServer } = require('ws');

const server = createServer((request, response) => {
  if (request.url === '/') {
    response.writeHead(200, { 'Content-Type': 'text/html' }).end('<title>API</title><p>page');
  } else if (request.url === '/whoami') {
    response.end(request.headers['remote-user']);
  } else {
    response.writeHead(404).end();
  }
});
new WebSocketServer({ server }).on('connection', (socket, request) => {
  socket.send(`hello ${request.headers['remote-user']}`);
  socket.on('message', (message, binary) => socket.send(message, { binary }));
});
server.listen(Number(process.argv[2]), '127.0.0.1');
