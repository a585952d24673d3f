// Opens the page of websocket.js in headless Chromium, without credentials and with them. Prints
// the results as JSON.
//
//     node page_client.js URL
const puppeteer = require('puppeteer-core');

const [url] = process.argv.slice(2);

async function load(page) {
  const response = await page.goto(url, { waitUntil: 'load' });
  const text = await page.evaluate(() => document.body.innerText);
  const type = response.headers()['content-type'];
  return { status: response.status(), type, title: await page.title(), text };
}

// Dismisses the prompt for credentials of this page. Without this, Chromium shows an error page of
// its own, since it has no window for the prompt.
async function dismissPrompt(page) {
  const session = await page.createCDPSession();
  const authChallengeResponse = { response: 'CancelAuth' };
  session.on('Fetch.requestPaused', ({ requestId }) => {
    session.send('Fetch.continueRequest', { requestId });
  });
  session.on('Fetch.authRequired', ({ requestId }) => {
    session.send('Fetch.continueWithAuth', { requestId, authChallengeResponse });
  });
  await session.send('Fetch.enable', { handleAuthRequests: true });
}

(async () => {
  const browser = await puppeteer.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu'],
  });
  const stranger = await browser.newPage();
  await dismissPrompt(stranger);
  const found = { refused: await load(stranger) };
  const page = await browser.newPage();
  await page.authenticate({ username: 'roy', password: 'open-sesame' });
  found.page = await load(page);
  found.fetched = await page.evaluate(async () => {
    const response = await fetch('/whoami');
    return [response.status, await response.text()];
  });
  found.messages = await page.evaluate(() => new Promise((resolve) => {
    const messages = [];
    const socket = new WebSocket(`ws://${location.host}/`);
    socket.onopen = () => socket.send('echo');
    socket.onmessage = ({ data }) => {
      messages.push(data);
      if (messages.length === 2) resolve(messages);
    };
    socket.onclose = ({ code }) => resolve([...messages, code]);
  }));
  await browser.close();
  console.log(JSON.stringify(found));
})();
