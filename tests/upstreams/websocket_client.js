// Exchanges messages with websocket.js, and then removes the user. Prints the results as JSON.
//
//     node websocket_client.js HOST:PORT RESTTOOL DATABASE
const { execFile } = require('child_process');
const { once } = require('events');
const { randomBytes } = require('crypto');
const WebSocket = require('ws');

const [host, resttool, database] = process.argv.slice(2);

// Returns the status of the response to a handshake that is refused.
async function refusal(url, options) {
  const socket = new WebSocket(url, options);
  const opened = once(socket, 'open').then(() => 101);
  const refused = once(socket, 'unexpected-response').then(([, response]) => response.statusCode);
  return Promise.race([opened, refused]);
}

(async () => {
  const found = {};
  found.withoutCredentials = await refusal(`ws://${host}/`);
  found.wrongPassword = await refusal(`ws://${host}/`, { auth: 'roy:wrong' });

  const socket = new WebSocket(`ws://${host}/`, { auth: 'roy:open-sesame' });
  const first = once(socket, 'message');
  await once(socket, 'open');
  found.first = (await first)[0].toString();
  const echo = async (message) => {
    const answer = once(socket, 'message');
    socket.send(message);
    return answer;
  };
  const [text, textIsBinary] = await echo('Grüße, 日本');
  found.text = [text.toString(), textIsBinary];
  const megabyte = randomBytes(1 << 20);
  const [binary, isBinary] = await echo(megabyte);
  found.binary = [binary.equals(megabyte), isBinary];

  socket.on('error', () => {}); // a reset is a close too
  const closed = new Promise((resolve) => {
    socket.on('close', (code) => resolve([performance.now(), code]));
  });
  found.openBefore = socket.readyState === WebSocket.OPEN;
  const env = { HOME: process.cwd(), RESTTOOL_DATABASE: database };
  const command = execFile(resttool, ['userdel', 'roy'], { env });
  [found.exitCode] = await once(command, 'exit');
  const removed = performance.now();
  const [at, code] = await closed;
  found.closedAfter = at - removed; // in milliseconds
  found.closeCode = code;
  found.afterwards = await refusal(`ws://${host}/`, { auth: 'roy:open-sesame' });
  console.log(JSON.stringify(found));
  process.exit();
})();
