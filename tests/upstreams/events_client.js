// Reads three events of streams.js and acknowledges each, then leaves. Prints the events as JSON.
//
//     node events_client.js URL
const authorization = `Basic ${Buffer.from('roy:open-sesame').toString('base64')}`;
const [url] = process.argv.slice(2);
const headers = { authorization };

(async () => {
  const leave = new AbortController();
  const response = await fetch(`${url}/events`, { headers, signal: leave.signal });
  const type = response.headers.get('content-type');
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const events = [];
  while (events.length < 3) {
    let event = '';
    while (!event.endsWith('\n\n')) {
      const { value, done } = await reader.read();
      if (done) throw new Error(`the stream ended after ${JSON.stringify(event)}`);
      event += value;
    }
    events.push(event);
    const ack = await fetch(`${url}/ack`, { method: 'POST', headers });
    const acknowledged = await ack.text();
    if (acknowledged !== `${events.length}\n`) throw new Error(`acknowledged ${acknowledged}`);
  }
  leave.abort();
  const left = await (await fetch(`${url}/left`, { headers })).text();
  console.log(JSON.stringify({ status: response.status, type, events, left }));
})();
