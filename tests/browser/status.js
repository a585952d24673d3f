// Opens the status page in headless Chromium, and prints what a test asserts as one JSON object.
//
//     node status.js URL [FOLDER]      FOLDER for screenshots
const puppeteer = require('puppeteer-core');
const path = require('path');

// Waits for the first content on the screen. Returns the milliseconds since the navigation.
async function firstPaint(page) {
  const name = 'first-contentful-paint';
  await page.waitForFunction((name) => performance.getEntriesByName(name).length > 0, {}, name);
  return page.evaluate((name) => performance.getEntriesByName(name)[0].startTime, name);
}

const SIZES = [['wide', 1100], ['narrow', 360]];

(async () => {
  const [url, folder] = process.argv.slice(2);
  const browser = await puppeteer.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu'],
  });
  const found = { paints: [], widths: {}, requests: [], console: [], colours: {} };
  for (const [name, width] of SIZES) {
    for (const scheme of ['light', 'dark']) {
      const page = await browser.newPage();
      page.on('request', (request) => found.requests.push(request.url()));
      page.on('console', (message) => found.console.push(message.text()));
      page.on('pageerror', (error) => found.console.push(String(error)));
      await page.setViewport({ width, height: 900, isMobile: width < 500 });
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
      await page.goto(url, { waitUntil: 'load' });
      found.paints.push(await firstPaint(page));
      found.widths[name] = await page.evaluate(() => document.documentElement.scrollWidth);
      found.colours[scheme] = await page.evaluate(
        () => getComputedStyle(document.body).backgroundColor);
      found.scripts = await page.evaluate(() => document.scripts.length);
      found.plots = await page.evaluate(() => document.querySelectorAll('svg polyline').length);
      found.size = (await page.content()).length;
      if (folder) {
        const file = path.join(folder, `${name}-${scheme}.png`);
        await page.screenshot({ path: file, fullPage: true });
      }
      await page.close();
    }
  }
  // A browser that has just started paints its first pages later.
  const page = await browser.newPage();
  for (let load = 0; load < 10; load += 1) {
    await page.goto(url, { waitUntil: 'load' });
    found.paints.push(await firstPaint(page));
  }
  await browser.close();
  console.log(JSON.stringify(found));
})();
