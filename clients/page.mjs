// Uses the web page of a running server in a headless Chromium.
//
// node page.mjs http://127.0.0.1:8080 MODEL BROWSER

import puppeteer from "puppeteer-core";

const [base, model, executable] = process.argv.slice(2);
const expect = (condition, what) => {
  if (!condition) throw new Error("failed: " + what);
};

// Without the library's own, which the page's policy would refuse.
const until = async (condition, what, seconds = 60) => {
  const end = Date.now() + seconds * 1000;
  while (!(await condition())) {
    expect(Date.now() < end, what);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
};

const browser = await puppeteer.launch({
  // Root may not use the sandbox, and containers have little shared memory.
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
  executablePath: executable,
  headless: true,
});
try {
  const page = await browser.newPage();
  const problems = [];
  const asked = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  page.on("request", (request) => asked.push(request));
  await page.goto(base + "/", { waitUntil: "networkidle0" });

  const options = await page.$$eval("#model option", (all) => all.map((option) => option.value));
  expect(options.includes(model), `the models: ${options}`);

  // Settings and the system prompt are sent.
  await page.click("#toggle");
  await page.type("#system", "You tell long stories.");
  await page.type("#temperature", "0");
  await page.type("#max_tokens", "1500");
  await page.type("#input", "Write the numbers from 1 to 500, one after the other.");
  await page.click("#send");
  const request = asked.find((request) => request.url().endsWith("/v1/chat/completions"));
  const body = JSON.parse(request.postData());
  expect(body.messages[0].content === "You tell long stories." && body.messages[1].role === "user", "the messages");
  expect(body.temperature === 0 && body.max_tokens === 1500 && body.stream && body.model === model, "the settings");

  // The answer grows, and can be stopped.
  const answer = () => page.$eval(".message.assistant:last-child .text", (text) => text.textContent);
  const says = (text) => page.$eval("#send", (button, text) => button.textContent === text, text);
  await until(async () => (await answer()).length > 3, "an answer begins");
  const early = (await answer()).length;
  expect(await says("Stop"), "the button says Stop");
  await page.click("#send");
  await until(() => says("Send"), "the answer stops", 10);
  expect((await answer()).length >= early, "the answer stays");
  const taken = await page.$eval(".message.assistant:last-child .note", (note) => Number(note.textContent.match(/(\d+) tokens/)[1]));
  expect(taken < 1500, `the answer stopped: ${taken} tokens`);

  // A second message goes with the first; at the end the speed is shown.
  await page.$eval("#max_tokens", (input) => (input.value = "8"));
  await page.type("#input", "Thank you.");
  await page.keyboard.press("Enter");
  await until(async () => (await page.$$(".message.assistant")).length === 2 && (await says("Send")), "a second answer");
  const requests = asked.filter((request) => request.url().endsWith("/v1/chat/completions"));
  expect(JSON.parse(requests[1].postData()).messages.length === 4, "the conversation goes on");
  const note = await page.$eval(".message.assistant:last-child .note", (note) => note.textContent);
  expect(/first token/.test(note) && /tokens\/s/.test(note) && /tokens read/.test(note), `the speed: ${note}`);

  // Errors are shown.
  await page.$eval("#max_tokens", (input) => (input.value = "-5"));
  await page.type("#input", "x");
  await page.keyboard.press("Enter");
  await until(async () => (await page.$$(".note.bad")).length === 1, "an error is shown", 10);
  expect((await page.$eval(".note.bad", (note) => note.textContent)).includes("max_tokens"), "the error");
  problems.splice(0);

  // Markdown becomes elements, and HTML stays text.
  const html = await page.evaluate(() => {
    const into = document.createElement("div");
    markdown(
      "# Title\n\nSome **bold**, *soft* and `code` <img src=x onerror=alert(1)> [link](https://a.example/) [bad](javascript:alert(1))\n\n" +
        "- one\n  - two\n- three\n\n1. first\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> quoted\n\n```rust\nfn main() { /* <b> */ }\n```\nend",
      into,
    );
    return into.innerHTML;
  });
  for (const part of [
    "<h2>Title</h2>", "<strong>bold</strong>", "<em>soft</em>", "<code>code</code>", "&lt;img src=x", 'href="https://a.example/"',
    "<ul><li>one<ul><li>two</li></ul></li><li>three</li></ul>", "<ol", "<td>2</td>", "<blockquote><p>quoted</p></blockquote>",
    'data-language="rust"', "/* &lt;b&gt; */", "<p>end</p>",
  ]) {
    expect(html.includes(part), `${part} in ${html}`);
  }
  expect(!html.includes("<img") && !html.includes('href="javascript'), `no HTML of answers: ${html}`);

  // Dark and light.
  const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const before = await back();
  await page.click("#theme");
  expect((await back()) !== before, "the theme changes");

  // What was set is still there after a reload, and nobody else was asked for anything.
  await page.reload({ waitUntil: "networkidle0" });
  expect((await page.$eval("#system", (input) => input.value)) === "You tell long stories.", "the settings are kept");
  const outside = asked.map((request) => request.url()).filter((url) => !url.startsWith(base) && !url.startsWith("data:"));
  expect(outside.length === 0, `outside requests: ${outside}`);
  expect(problems.length === 0, `problems: ${problems}`);
  console.log("the page works");
} finally {
  await browser.close();
}
