/* Modal's own JavaScript SDK against the server named by MODAL_SERVER_URL.
 *
 * Usage: node peer.mjs LABEL, with MODAL_SANDBOX_V2 saying which sandboxes to ask for and MODALSH_PEERS_NODE
 * naming the folder whose node_modules holds the SDK.  Output is as that of peer.py: one line per check,
 * "ok - LABEL: text" or "not ok - LABEL: text", and "end - N checks" as the last.
 */
import { createHash, randomUUID } from "node:crypto";
import { createRequire } from "node:module";
import { isDeepStrictEqual } from "node:util";
import { setTimeout as sleep } from "node:timers/promises";

const require = createRequire(`${process.env.MODALSH_PEERS_NODE}/`);
const { AlreadyExistsError, ModalClient, NotFoundError, Probe } = require("modal");

const TOPIC_WAIT_MS = 90_000;
const IS_V2 = !["0", "false"].includes(process.env.MODAL_SANDBOX_V2 ?? "");
const RUN = randomUUID().replaceAll("-", "").slice(0, 12);
const MIB = 1 << 20;
const CODE_SIGKILL = 137;
const CODE_SIGTERM = 143;
const CODE_LIFETIME_OVER = 124;
const GRPC_UNAUTHENTICATED = 16;

const label = process.argv[2];
const buildLog = [];
let checks = 0;
let failed = 0;

function check(passed, text, seen) {
	checks++;
	if (!passed)
		failed++;
	console.log(`${passed ? "ok" : "not ok"} - ${label}: ${text}`);
	if (!passed && seen !== undefined)
		console.log(`# seen: ${JSON.stringify(seen)?.slice(0, 600)}`);
}

function equal(seen, wanted, text) {
	check(isDeepStrictEqual(seen, wanted), text, { seen, wanted });
}

async function throws(matches, call, text) {
	try {
		const value = await call();
		check(false, text, `no error but ${value}`);
	} catch (error) {
		check(matches(error), text, `${error.name}: ${error.message}`);
	}
}

const isA = (kind) => (error) => error instanceof kind;
const isError = (error) => error instanceof Error;

/* Runs one topic; a call that never returns is a failure and not a hang. */
async function topic(body, ...args) {
	const late = new AbortController();
	const timer = sleep(TOPIC_WAIT_MS, undefined, { signal: late.signal }).then(
		() => check(false, `${body.name} ended within ${TOPIC_WAIT_MS} ms`), () => undefined);
	const work = body(...args).catch((error) => {
		check(false, `${body.name} ran to its end`, error.stack);
	});
	const value = await Promise.race([work, timer]);
	late.abort();
	return value;
}

async function run(sandbox, argv, options = {}) {
	const child = await sandbox.exec(argv, options);
	const read = (stream) => options.mode === "binary" ? stream.readBytes() : stream.readText();
	const [out, err, code] = await Promise.all([read(child.stdout), read(child.stderr), child.wait()]);
	return [code, out, err];
}

const shell = (sandbox, script, options) => run(sandbox, ["sh", "-c", script], options);

/* Bytes that no text decoder would let pass, the same for the same seed. */
function pattern(length, seed) {
	const everyByte = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
	const block = Buffer.concat([createHash("sha512").update(seed).digest(), everyByte]);
	return Buffer.alloc(length, block);
}

async function writeAll(child, pieces) {
	const writer = child.stdin.getWriter();
	for (const piece of pieces)
		await writer.write(piece);
	await writer.close();
}

/* The SDK shows no build log, so this client middleware notes the log lines that come in. */
async function* noteBuildLog(call, options) {
	if (!call.method.path.endsWith("/ImageJoinStreaming"))
		return yield* call.next(call.request, options);
	for await (const message of call.next(call.request, options)) {
		buildLog.push(...message.taskLogs.map((entry) => entry.data));
		yield message;
	}
}

async function appLookUp(modal) {
	const name = `peer-app-${RUN}`;
	await throws(isA(NotFoundError), () => modal.apps.fromName(name), "an app that does not exist is NotFoundError");
	const app = await modal.apps.fromName(name, { createIfMissing: true });
	check(app.appId.startsWith("ap-"), "app id begins with ap-", app.appId);
	equal((await modal.apps.fromName(name)).appId, app.appId, "the second look-up finds the same app");
	return app;
}

async function imageBuild(modal, app) {
	const lines = [`ENV PEER_IMAGE=${RUN}`, `RUN echo built for ${RUN} | tee /root/built`];
	const recipe = () => modal.images.fromRegistry("debian:12").dockerfileCommands(lines);
	const image = await recipe().build(app);
	check(image.imageId.startsWith("im-"), "image id begins with im-", image.imageId);
	check(buildLog.join("").includes(`built for ${RUN}`), "the build's log shows what its RUN line wrote", buildLog);
	equal((await recipe().build(app)).imageId, image.imageId, "the same recipe is the same image");
	equal((await modal.images.fromId(image.imageId)).imageId, image.imageId, "an image is found by its id");
	return image;
}

async function sandboxCreate(modal, app, image) {
	const sandbox = await modal.sandboxes.create(app, image, {
		name: `peer-${RUN}`,
		tags: { peer: RUN, kind: "main" },
		env: { PEER_ENV: 'two words, "quotes" and $signs' },
		timeoutMs: 600_000,
	});
	const isV1Shape = /^sb-[0-9A-Za-z]{22}$/.test(sandbox.sandboxId);
	check(sandbox.sandboxId.startsWith("sb-") && isV1Shape !== IS_V2,
		"the sandbox id has the shape of its version", sandbox.sandboxId);
	equal(await sandbox.poll(), null, "poll of a running sandbox is null");
	return sandbox;
}

async function execBasics(sandbox) {
	equal(await run(sandbox, ["echo", "a  b", "c"]), [0, "a  b c\n", ""], "exec passes its arguments unsplit");
	equal((await shell(sandbox, 'printf %s "$PEER_ENV"'))[1], 'two words, "quotes" and $signs',
		"the sandbox's env arrives");
	equal((await shell(sandbox, 'printf %s "$PEER_IMAGE"'))[1], RUN, "an ENV line of the image arrives");
	equal((await shell(sandbox, "cat /root/built"))[1], `built for ${RUN}\n`, "a RUN line of the image has been run");
	equal((await shell(sandbox, 'printf %s "$A-$PEER_ENV"', { env: { A: "1", PEER_ENV: "2" } }))[1], "1-2",
		"the exec's env arrives and wins");
	equal((await run(sandbox, ["printf", "%s", ""]))[1], "", "no output is the empty string");
	equal(await shell(sandbox, "echo out; echo err >&2"), [0, "out\n", "err\n"], "stdout and stderr are apart");
	const child = await sandbox.exec(["echo", "late"]);
	equal(await child.wait(), 0, "wait before the output is read");
	equal(await child.stdout.readText(), "late\n", "output can be read after wait");
	const quiet = await sandbox.exec(["sh", "-c", "echo gone; echo kept >&2"], { stdout: "ignore" });
	equal([await quiet.stdout.readText(), await quiet.stderr.readText(), await quiet.wait()], ["", "kept\n", 0],
		"stdout can be discarded");
}

async function exitStatus(sandbox) {
	for (const code of [0, 3, 125, 255])
		equal((await shell(sandbox, `exit ${code}`))[0], code, `exit code ${code}`);
	equal((await shell(sandbox, "no-such-command-here"))[0], 127, "the shell's 127 for an unknown command");
	equal((await shell(sandbox, "kill -TERM $$"))[0], CODE_SIGTERM, "death by SIGTERM is 143");
	equal((await shell(sandbox, "kill -KILL $$"))[0], CODE_SIGKILL, "death by SIGKILL is 137");
	const missing = await run(sandbox, ["no-such-program-here"]).then(([code]) => code, (error) => error.message);
	check(missing !== 0, "a program that is missing is an error or a code, never 0", missing);
}

async function standardInput(sandbox) {
	const small = await sandbox.exec(["cat"]);
	await writeAll(small, ["one\n", "two\n"]);
	equal([await small.stdout.readText(), await small.wait()], ["one\ntwo\n", 0], "stdin, small, in two writes");

	const empty = await sandbox.exec(["wc", "-c"]);
	await empty.stdin.close();
	equal((await empty.stdout.readText()).trim(), "0", "an EOF alone ends stdin");

	const data = pattern(12 * MIB, "stdin");
	const sum = await sandbox.exec(["sha256sum"], { mode: "binary" });
	await writeAll(sum, [0, 4, 8].map((start) => data.subarray(start * MIB, (start + 4) * MIB)));
	const line = Buffer.from(await sum.stdout.readBytes()).toString();
	equal(line.split(" ")[0], createHash("sha256").update(data).digest("hex"), "12 MiB of stdin arrive whole");
	equal(await sum.wait(), 0, "the reader of 12 MiB ends with 0");

	const over = await sandbox.exec(["true"]);
	await over.wait();
	await throws(isError, () => over.stdin.writeText("late"), "a write after the command's end is an error");
}

async function binaryData(sandbox) {
	const everyByte = pattern(64 + 256, "").subarray(64);
	const cat = await sandbox.exec(["cat"], { mode: "binary" });
	await writeAll(cat, [everyByte]);
	check(everyByte.equals(await cat.stdout.readBytes()), "every byte value goes there and back");

	const data = pattern(5 * MIB, "echo");
	const big = await sandbox.exec(["cat"], { mode: "binary" });
	const pieces = [0, 1, 2, 3, 4].map((start) => data.subarray(start * MIB, (start + 1) * MIB));
	const [back] = await Promise.all([big.stdout.readBytes(), writeAll(big, pieces)]);
	check(data.equals(back), "5 MiB through cat come back the same", back.length);

	const [code, out] = await shell(sandbox, "head -c 33554432 /dev/zero | tr '\\0' '\\377'", { mode: "binary" });
	check(code === 0 && Buffer.alloc(32 * MIB, 0xff).equals(out), "32 MiB of stdout arrive whole", [code, out.length]);
	const [, text] = await shell(sandbox, "i=0; while [ $i -lt 400 ]; do printf '%s' \"$T\"; i=$((i+1)); done",
		{ env: { T: "ä€😀".repeat(100) } });
	check(text === "ä€😀".repeat(40000), "UTF-8 survives being cut into chunks", text.length);
}

async function execOptions(sandbox) {
	equal((await run(sandbox, ["pwd"], { workdir: "/usr/lib" }))[1], "/usr/lib\n", "workdir is used");
	const started = performance.now();
	const child = await sandbox.exec(["sh", "-c", "sleep 3; touch /root/too-late"], { timeoutMs: 1000 });
	const outcome = await child.wait().catch((error) => error.name);
	const tookMs = performance.now() - started;
	check(outcome === CODE_SIGKILL || outcome === "ExecTimeoutError" || outcome === "TimeoutError" || outcome === "Error",
		"an exec timeout ends the wait", outcome);
	check(tookMs >= 900 && tookMs < 2900, "an exec timeout of 1 s takes about 1 s", tookMs);
	await sleep(3000);
	equal((await shell(sandbox, "test -e /root/too-late"))[0], 1, "an exec timeout stops the command itself");
	const [code, out] = await run(sandbox, ["sh", "-c", "test -t 1 && echo terminal; stty size"], { pty: true });
	equal([code, out], [0, "terminal\r\n24 80\r\n"], "pty gives the command a terminal of 24 by 80");
	const numbers = Array.from({ length: 24 }, (_, number) => number);
	const results = await Promise.all(numbers.map((number) =>
		shell(sandbox, `sleep 0.2; echo ${number}; exit ${number}`)));
	equal(results, numbers.map((number) => [number, `${number}\n`, ""]),
		"24 commands at once keep their output and code");
}

async function namesAndTags(modal, sandbox, app, image) {
	const name = `peer-${RUN}`;
	const byName = await modal.sandboxes.fromName(app.name, name);
	equal(byName.sandboxId, sandbox.sandboxId, "fromName finds the sandbox");
	equal((await run(byName, ["echo", "by name"]))[1], "by name\n", "exec works on a sandbox from fromName");
	const byId = await modal.sandboxes.fromId(sandbox.sandboxId);
	equal((await run(byId, ["echo", "by id"]))[1], "by id\n", "exec works on a sandbox from fromId");
	await throws(isA(NotFoundError), () => modal.sandboxes.fromName(app.name, `absent-${RUN}`),
		"fromName of an unknown name is NotFoundError");
	await throws(isA(AlreadyExistsError), () => modal.sandboxes.create(app, image, { name, timeoutMs: 60_000 }),
		"a name that is taken is AlreadyExistsError");
	equal(await sandbox.getTags(), { peer: RUN, kind: "main" }, "the tags of create are read back");
	await sandbox.setTags({ peer: RUN, kind: "second", more: "yes" });
	equal(await sandbox.getTags(), { peer: RUN, kind: "second", more: "yes" }, "setTags replaces all tags");

	const ids = async (tags) => {
		const found = [];
		for await (const item of modal.sandboxes.list({ appId: app.appId, tags }))
			found.push(item.sandboxId);
		return found;
	};
	equal(await ids({ peer: RUN, kind: "second" }), [sandbox.sandboxId], "list finds by two tags");
	equal(await ids({ peer: RUN, kind: "main" }), [], "list asks for all tags together");
	const other = await modal.sandboxes.create(app, image, { tags: { peer: RUN }, timeoutMs: 60_000 });
	equal(await ids({ peer: RUN }), [other.sandboxId, sandbox.sandboxId], "list gives the newest first");
	await other.terminate({ wait: true });
	equal(await ids({ peer: RUN }), [sandbox.sandboxId], "list leaves out what has ended");
}

async function snapshot(modal, sandbox, app) {
	await shell(sandbox, "mkdir -p /root/kept && echo survives > /root/kept/file && chmod 750 /root/kept/file");
	const image = await sandbox.snapshotFilesystem();
	check(image.imageId.startsWith("im-"), "a snapshot is an image", image.imageId);
	await shell(sandbox, "echo changed > /root/kept/file");
	const restored = await modal.sandboxes.create(app, image, { timeoutMs: 60_000 });
	equal((await shell(restored, "cat /root/kept/file; stat -c %a /root/kept/file"))[1], "survives\n750\n",
		"a sandbox from a snapshot has the file as it was");
	await restored.terminate();
}

async function directories(modal, sandbox, app, image) {
	await sandbox.mountImage("/root/mounted");
	equal((await shell(sandbox, "ls -A /root/mounted; echo in > /root/mounted/file")).slice(0, 2), [0, ""],
		"an empty directory can be mounted and written to");
	const kept = await sandbox.snapshotDirectory("/root/mounted");
	const other = await modal.sandboxes.create(app, image, { timeoutMs: 60_000 });
	await other.mountImage("/srv/there", kept);
	equal((await shell(other, "cat /srv/there/file"))[1], "in\n", "a directory snapshot can be mounted elsewhere");
	await other.unmountImage("/srv/there");
	check((await shell(other, "cat /srv/there/file"))[0] !== 0, "unmount takes it away");
	await other.terminate();
}

async function volumes(modal, app, image) {
	await throws(isA(NotFoundError), () => modal.volumes.fromName(`absent-${RUN}`),
		"a volume that does not exist is NotFoundError");
	const volume = await modal.volumes.fromName(`peer-volume-${RUN}`, { createIfMissing: true });
	const params = { volumes: { "/data": volume }, timeoutMs: 120_000 };
	const first = await modal.sandboxes.create(app, image, params);
	const second = await modal.sandboxes.create(app, image, params);
	equal((await shell(first, "echo shared > /data/file && sync /data/file"))[0], 0, "a volume can be written");
	await second.reloadVolumes();
	equal((await shell(second, "cat /data/file"))[1], "shared\n", "another sandbox reads it from the volume");
	await Promise.all([first.terminate(), second.terminate()]);
}

async function secrets(modal, app, image) {
	const held = [await modal.secrets.fromObject({ PEER_DICT: "dict", PEER_BOTH: "from the secret" })];
	const env = { PEER_BOTH: "from env" };
	const sandbox = await modal.sandboxes.create(app, image, { secrets: held, env, timeoutMs: 120_000 });
	equal((await shell(sandbox, 'echo "$PEER_DICT,$PEER_BOTH"'))[1], "dict,from env\n",
		"a secret becomes environment, env wins");
	await sandbox.terminate();
	const plain = await modal.sandboxes.create(app, image, { timeoutMs: 120_000 });
	equal((await shell(plain, 'echo "$PEER_DICT"'))[1], "\n", "another sandbox does not have it");
	equal((await shell(plain, 'echo "$PEER_DICT"', { secrets: held }))[1], "dict\n",
		"a secret can be given to one command");
	await plain.terminate();
	await throws(isA(NotFoundError), () => modal.secrets.fromName(`absent-${RUN}`),
		"a secret that does not exist is NotFoundError");
}

async function network(modal, app, image) {
	const { port } = new URL(process.env.MODAL_SERVER_URL);
	const sandbox = await modal.sandboxes.create(app, image, { blockNetwork: true, timeoutMs: 60_000 });
	const [code, devices] = await shell(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '");
	check(code === 0 && ["", "lo\n"].includes(devices), "a blocked sandbox has no network device but lo", devices);
	const [refused, , err] = await run(sandbox, ["bash", "-c", `echo > /dev/tcp/127.0.0.1/${port}`]);
	check(refused === 1 && err.includes(`/dev/tcp/127.0.0.1/${port}`), "a blocked sandbox cannot connect to the host",
		[refused, err]);
	await sandbox.terminate();
}

async function sandboxEnd(modal, app, image) {
	const ended = await modal.sandboxes.create(app, image, {
		command: ["sh", "-c", "echo main out; echo main err >&2; exit 7"],
		timeoutMs: 60_000,
	});
	equal(await ended.wait(), 7, "the main command's exit code is the sandbox's");
	equal(await ended.poll(), 7, "poll of an ended sandbox is its code");
	equal([await ended.stdout.readText(), await ended.stderr.readText()], ["main out\n", "main err\n"],
		"the main command's output can be read");
	await throws(isError, () => run(ended, ["true"]), "exec in an ended sandbox is an error");

	const name = `peer-end-${RUN}`;
	const sandbox = await modal.sandboxes.create(app, image, { name, timeoutMs: 60_000 });
	const child = await sandbox.exec(["sleep", "100"]);
	equal(await sandbox.terminate({ wait: true }), CODE_SIGKILL, "terminate and wait is 137");
	await throws(isA(NotFoundError), () => modal.sandboxes.fromName(app.name, name),
		"an ended sandbox is not found by name");
	const code = await child.wait().catch((error) => error.name);
	check(code !== 0, "its running command did not end with 0", code);
	const again = await modal.sandboxes.create(app, image, { name, timeoutMs: 60_000 });
	check(again.sandboxId !== sandbox.sandboxId, "its name is free again", again.sandboxId);
	await again.terminate({ wait: true });
	await again.terminate();
	equal(await again.poll(), CODE_SIGKILL, "a second terminate changes nothing");
}

async function sandboxLimits(modal, app, image) {
	const started = performance.now();
	const short = await modal.sandboxes.create(app, image, { timeoutMs: 3000 });
	const idle = await modal.sandboxes.create(app, image, { timeoutMs: 60_000, idleTimeoutMs: 2000 });
	equal(await short.wait(), CODE_LIFETIME_OVER, "a sandbox whose life-time is over has code 124");
	const tookMs = performance.now() - started;
	check(tookMs >= 2500 && tookMs < 15_000, "a life-time of 3 s is about 3 s", tookMs);
	while (await idle.poll() === null && performance.now() - started < 20_000)
		await sleep(200);
	check(await idle.poll() !== null, "an idle sandbox ends by its idle timeout");
}

async function mainStdin(modal, app, image) {
	const sandbox = await modal.sandboxes.create(app, image, { command: ["cat"], timeoutMs: 60_000 });
	const writer = sandbox.stdin.getWriter();
	await writer.write("to the main command\n");
	await writer.close();
	equal(await sandbox.stdout.readText(), "to the main command\n", "stdin of the main command reaches it");
	equal(await sandbox.wait(), 0, "its EOF ends the sandbox with 0");
}

async function readiness(modal, app, image) {
	const sandbox = await modal.sandboxes.create(app, image, {
		readinessProbe: Probe.withExec(["test", "-e", "/root/ready"]),
		timeoutMs: 60_000,
	});
	const ready = sandbox.waitUntilReady(20_000).then(() => "ready");
	equal(await Promise.race([ready, sleep(700, "not yet")]), "not yet", "a sandbox is not ready before its probe");
	await shell(sandbox, "touch /root/ready");
	equal(await ready, "ready", "a sandbox is ready when its probe succeeds");
	await sandbox.terminate();
}

async function credentials() {
	const { MODAL_TOKEN_ID: tokenId, MODAL_TOKEN_SECRET: tokenSecret } = process.env;
	for (const [pair, which] of [
		[{ tokenId, tokenSecret: "as-wrong" }, "secret"],
		[{ tokenId: "ak-wrong", tokenSecret }, "id"],
	]) {
		const client = new ModalClient(pair);
		await throws((error) => error.code === GRPC_UNAUTHENTICATED || error.name === "AuthError",
			() => client.apps.fromName(`peer-app-${RUN}`, { createIfMissing: true }),
			`a wrong token ${which} is an authentication error`);
		client.close();
	}
}

async function main() {
	const modal = new ModalClient({ grpcMiddleware: [noteBuildLog] });
	await topic(credentials);
	const app = await topic(appLookUp, modal);
	const image = app && await topic(imageBuild, modal, app);
	const sandbox = image && await topic(sandboxCreate, modal, app, image);
	if (sandbox) {
		for (const body of [execBasics, exitStatus, standardInput, binaryData, execOptions])
			await topic(body, sandbox);
		await topic(namesAndTags, modal, sandbox, app, image);
		await topic(snapshot, modal, sandbox, app);
		await topic(directories, modal, sandbox, app, image);
		for (const body of [volumes, secrets, network, readiness, sandboxEnd, sandboxLimits])
			await topic(body, modal, app, image);
		if (IS_V2)
			await topic(mainStdin, modal, app, image);
		await sandbox.terminate();
	}
	console.log(`end - ${checks} checks`);
	/* Calls of topics that hang must not keep the process. */
	process.exit(failed ? 1 : 0);
}

await main();
