// An API with bodies and events of any length, without packages.
//
//     node streams.js PORT
//
//     PUT /digest    answers with the SHA-256 of the body, in hexadecimal
//     GET /events    sends event 1, and each further one after its predecessor was acknowledged
//     POST /ack      acknowledges the last event
//     GET /left      responds when the client of /events has left
const { createHash } = require('crypto');
const { createServer } = require('http');

let events = null;
let sent = 0;
let left = null;

function sendNext() {
  sent += 1;
  events.write(`data: event ${sent}\n\n`);
}

const routes = {
  'GET /': (request, response) => response.end('ready\n'),
  'PUT /digest': (request, response) => {
    const hash = createHash('sha256');
    request.on('data', (piece) => hash.update(piece));
    request.on('end', () => response.end(hash.digest('hex')));
  },
  'GET /events': (request, response) => {
    events = response;
    sent = 0;
    left = new Promise((resolve) => response.on('close', resolve));
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    sendNext();
  },
  'POST /ack': (request, response) => {
    response.end(`${sent}\n`);
    sendNext();
  },
  'GET /left': (request, response) => left.then(() => response.end('left\n')),
};

createServer((request, response) => {
  const route = routes[`${request.method} ${request.url}`];
  if (route) {
    route(request, response);
  } else {
    response.writeHead(404).end();
  }
}).listen(Number(process.argv[2]), '127.0.0.1');
