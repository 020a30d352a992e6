// The official TypeScript client 1.32 with its tasks of 2025-11-25.
// node typescript_sdk_1.mjs URL PATIENCE_SECONDS DIRECTORY, where its packages are installed.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const installed = createRequire(`${process.argv[4]}/`);
const load = (name) => import(pathToFileURL(installed.resolve(`@modelcontextprotocol/sdk/${name}`)).href);
const { Client } = await load("client/index.js");
const { StreamableHTTPClientTransport } = await load("client/streamableHttp.js");
const { CallToolResultSchema, ElicitRequestSchema, ErrorCode, McpError, TaskStatusNotificationSchema } =
  await load("types.js");

const [url, patience] = [process.argv[2], Number(process.argv[3])];
// After this a host gives an answer up: the connection it would come by may have died without a word.
const options = { timeout: 15_000 };
const CANCELLED_ALREADY = -32602;

const questions = [];
const statuses = new Set();
const tasks = {};

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const texts = (result) => result.content.filter((block) => block.type === "text").map((block) => block.text);
const final = (status) => ["completed", "failed", "cancelled"].includes(status);

async function connected() {
  const client = new Client(
    { name: "trial", version: "0" },
    { capabilities: { elicitation: { form: {} }, tasks: {} } },
  );
  client.setRequestHandler(ElicitRequestSchema, (request) => {
    questions.push(request.params.message);
    return { action: "accept", content: { name: "Ada" } };
  });
  client.setNotificationHandler(TaskStatusNotificationSchema, (note) => {
    statuses.add(note.params.status);
  });
  client.onerror = (error) => console.error(`heard: ${error}`);
  await client.connect(new StreamableHTTPClientTransport(new URL(url)), options);
  await client.listTools(undefined, options);
  return client;
}

// Call a tool as a task, unless this act has one already; its id.
async function task(client, act, tool) {
  if (!(act in tasks)) {
    const stream = client.experimental.tasks.callToolStream({ name: tool, arguments: {} }, undefined, {
      ...options,
      task: { ttl: 600_000 },
    });
    for await (const message of stream) {
      if (message.type === "error") throw message.error;
      if (message.type === "taskCreated") {
        tasks[act] = message.task.taskId;
        break;
      }
    }
  }
  return tasks[act];
}

async function follow(client, id) {
  for (const end = Date.now() + options.timeout; Date.now() < end; await pause(200)) {
    const { status } = await client.experimental.tasks.getTask(id, options);
    if (final(status)) return status;
  }
  throw new Error("it does not end");
}

const result = (client, id) => client.experimental.tasks.getTaskResult(id, CallToolResultSchema, options);

// An act that was interrupted begins again with a new connection, and remembers the tasks that it has made.
const acts = {
  async connect(client) {
    const { tools } = await client.listTools(undefined, options);
    return {
      version: client.transport.protocolVersion,
      can_list: client.getServerCapabilities().tasks?.list !== undefined,
      support: tools.find((tool) => tool.name === "count").execution.taskSupport,
    };
  },
  async call(client) {
    const called = await client.callTool({ name: "add", arguments: { left: 1, right: 2 } }, undefined, options);
    return called.structuredContent;
  },
  async progress(client) {
    const seen = [];
    const onprogress = (note) => seen.push(note.progress);
    const called = await client.callTool({ name: "slow", arguments: {} }, undefined, { ...options, onprogress });
    const rising = seen.every((value, index) => index === 0 || value > seen[index - 1]);
    return { result: texts(called), some: seen.length > 0, rising };
  },
  async poll(client) {
    const id = await task(client, "poll", "count");
    const last = await follow(client, id);
    return { last, result: texts(await result(client, id)) };
  },
  async stream(client) {
    const stream = client.experimental.tasks.callToolStream(
      { name: "count", arguments: { upto: 10 } },
      undefined,
      { ...options, task: { ttl: 600_000 } },
    );
    const kinds = new Set();
    for await (const message of stream) {
      if (message.type === "error") throw message.error;
      kinds.add(message.type);
      if (message.type === "result") return { kinds: [...kinds], result: texts(message.result) };
    }
    throw new Error("the stream ended without a result");
  },
  async question(client) {
    questions.length = 0;
    const id = await task(client, "question", "ask");
    const answered = await result(client, id);
    return { asked: questions.slice(-1), result: texts(answered) };
  },
  async cancel(client) {
    const id = await task(client, "cancel", "endless");
    try {
      await client.experimental.tasks.cancelTask(id, options);
    } catch (error) {
      if (error.code !== CANCELLED_ALREADY) throw error;
    }
    const { status } = await client.experimental.tasks.getTask(id, options);
    try {
      await result(client, id);
    } catch (error) {
      const own = [ErrorCode.RequestTimeout, ErrorCode.ConnectionClosed];
      if (!(error instanceof McpError) || own.includes(error.code)) throw error;
      return { status, code: error.code };
    }
    return { status, code: null };
  },
  async list_tasks(client) {
    const mine = [tasks.cancel, tasks.question, tasks.poll];
    const listed = [];
    let cursor;
    do {
      const page = await client.experimental.tasks.listTasks(cursor, options);
      listed.push(...page.tasks.map((one) => one.taskId));
      cursor = page.nextCursor;
    } while (cursor);
    const found = listed.filter((id) => mine.includes(id));
    return { newest_first: JSON.stringify(found) === JSON.stringify(mine) };
  },
  async notifications() {
    const wanted = ["cancelled", "completed"];
    for (let look = 0; look < 200 && !wanted.every((status) => statuses.has(status)); look++) await pause(50);
    return wanted.filter((status) => statuses.has(status));
  },
};

let client;
for (const [name, perform] of Object.entries(acts)) {
  for (const giveUp = Date.now() + patience * 1000; ; await pause(200)) {
    try {
      client ??= await connected();
      console.log(JSON.stringify({ act: name, saw: await perform(client) }));
      break;
    } catch (error) {
      console.error(`again: ${error}`);
      await client?.close().catch(() => {});
      client = undefined;
      if (Date.now() > giveUp) {
        console.log(JSON.stringify({ act: name, error: String(error) }));
        break;
      }
    }
  }
}
process.exit(0);
