// Does in the Inspector's pages what a person does there: connect directly, list the tools, run one.
// Takes what it needs as one argument, JSON; prints what it has seen as JSON.
import { createRequire } from 'node:module';

const told = JSON.parse(process.argv[2]);
const { chromium } = createRequire(`${told.packages}/`)('playwright-core');

const browser = await chromium.launch({ executablePath: told.chromium, args: told.flags });
const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
const methods = [];
const proxied = [];
page.on('request', (request) => {
  const url = request.url();
  if (url.startsWith(told.service)) methods.push(request.method());
  else if (url.includes('/mcp?')) proxied.push(url);
});
try {
  await page.addInitScript((key) => {
    localStorage.setItem('lastConnectionType', 'direct');
    localStorage.setItem(
      'lastCustomHeaders',
      JSON.stringify([{ name: 'Authorization', value: `Bearer ${key}`, enabled: true }]),
    );
  }, told.key);
  await page.goto(`${told.page}?transport=streamable-http&serverUrl=${encodeURIComponent(told.service)}`);
  await page.getByRole('button', { name: 'Connect', exact: true }).click();
  await page.getByText('Connected', { exact: true }).waitFor();
  await page.getByRole('tab', { name: 'Tools' }).click();
  await page.getByRole('button', { name: 'List Tools' }).click();
  await page.getByText('greet', { exact: true }).first().click();
  const tools = await page.getByText(/^(greet|tell|task_\w+)$/).allInnerTexts();
  await page.locator('textarea[name="name"], textarea#name, input#name').first().fill('browser');
  await page.getByRole('button', { name: 'Run Tool' }).click();
  const result = page.getByText('Hello, browser!').first();
  await result.waitFor();
  console.log(JSON.stringify({ tools, result: await result.innerText(), methods, proxied }));
} finally {
  await page.screenshot({ path: told.picture });
  await browser.close();
}
