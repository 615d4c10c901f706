"""Node's child_process, and npm, which finds `sh` on the PATH."""

import cases
from programs import case, need, run


def npm(t, *args, **more):
    """Runs npm without looking at the network or at the user's files."""
    need("node")
    env = t.env(npm_config_cache=t.path("cache"), npm_config_update_notifier="false", npm_config_audit="false",
                npm_config_fund="false", npm_config_offline="true", npm_config_logs_max="0")
    t.leave_out("cache")
    return run(t, "npm", *args, env=env, **more)


@case("node", "exec", limit_s=40)
def node_exec(t):
    """exec, execSync, spawn and spawnSync with shell: codes, signals, timeouts, limits, streams, kill by group."""
    path = t.write("run.js", rb"""
const cp = require('child_process');
const { promisify } = require('util');
const see = (label, ...values) => console.log(label, JSON.stringify(values));
const exec = promisify(cp.exec);
const failed = (e) => ({ code: e.code, killed: e.killed, signal: e.signal, out: e.stdout, err: e.stderr });
(async () => {
    see('exec', await exec('echo out; echo err >&2'));
    see('code', await exec('echo out; exit 9').catch(failed));
    see('signal', await exec('kill -SEGV $$').catch(failed));
    see('timeout', await exec('echo partial; exec sleep 20', { timeout: 500 }).catch(failed));
    see('too much', await exec('yes', { maxBuffer: 1000 }).catch((e) => e.code));
    see('bash', await exec('echo ${BASH_VERSION%%.*} $0', { shell: '/bin/bash' }));
    see('sync', cp.execSync('tr a-z A-Z', { input: 'input' }).toString());
    const s = cp.spawnSync('exit 4', { shell: true });
    see('spawnSync', s.status, s.signal);
    see('many', (await Promise.all([...Array(40).keys()].map((i) => exec(`echo ${i}; sleep 0.0${i % 10}`))))
        .every((r, i) => r.stdout === `${i}\n`));
    await new Promise((done) => {
        const child = cp.spawn('while read x; do echo "<$x>"; done; exit 6', { shell: true });
        let n = 0;
        child.stdout.on('data', (d) => {
            see('line', d.toString());
            if (++n < 3) child.stdin.write(`line ${n}\n`); else child.stdin.end();
        });
        child.on('exit', (code, signal) => see('exit', code, signal));
        child.on('close', done);
        child.stdin.write('line 0\n');
    });
    await new Promise((done) => {
        const child = cp.spawn('echo up; sleep 30; :', { shell: true, detached: true, stdio: ['ignore', 'pipe', 'inherit'] });
        child.stdout.once('data', () => process.kill(-child.pid, 'SIGTERM'));
        child.on('close', (code, signal) => { see('group', code, signal); done(); });
    });
    await new Promise((done) => {
        const child = cp.spawn('seq 300000', { shell: true });
        let size = 0;
        child.stdout.on('data', (d) => { size += d.length; });
        child.on('close', (code) => { see('big', size, code); done(); });
    });
})();
""")
    t.leave_out("run.js")
    run(t, "node", path, status=0)


@case("npm", "run", shells=cases.BOTH, limit_s=60)
def npm_run(t):
    """npm run: pre and post scripts in order, arguments, node_modules/.bin, environment, failing scripts, npx."""
    t.write("package.json", b"""{ "name": "p", "version": "1.2.3", "config": { "port": "80" }, "bin": { "own": "own.sh" },
  "scripts": {
    "prebuild": "echo pre $npm_lifecycle_event > pre; cat pre",
    "build": "own 'a b' | tee built; echo $npm_package_version $npm_package_config_port; node -p '6*7' && echo $0 args:",
    "postbuild": "test -s built && echo post",
    "test": "echo failing >&2; exit 5",
    "posttest": "echo never",
    "outer": "npm run --silent inner && npm run inner2",
    "inner": "echo inner; cat", "inner2": "kill -TERM $$" } }
""")
    t.finish(t.start_program("/bin/mkdir", "-p", "node_modules/.bin"))
    t.write("node_modules/.bin/own", b"#!/bin/sh\necho \"own $# $1\"\n", mode=0o755)
    shell = f"--script-shell={t.shell}"
    npm(t, shell, "run", "build", "--", "x y", "$z", label="build", status=0)
    npm(t, shell, "test", label="test", status=5)
    npm(t, shell, "--silent", "run", "outer", data=b"input\n", label="outer")
    npm(t, shell, "exec", "-c", "own from exec | tr a-z A-Z", label="exec")


@case("npm", "sh-on-path", limit_s=60)
def npm_on_path(t):
    """Without an option npm starts the first `sh` of the PATH; install scripts run."""
    t.write("package.json", b"""{ "name": "p", "version": "1.0.0", "private": true, "scripts": {
  "preinstall": "echo pre >> order", "install": "echo install >> order; pwd > where", "postinstall": "echo post >> order",
  "prepare": "echo prepare >> order", "start": "echo $PATH | tr : '\\\\n' | grep -c node_modules; uname -s" } }
""")
    npm(t, "--silent", "--foreground-scripts", "install", label="install", status=0)
    t.see("order", t.read("order"), b"pre\ninstall\npost\nprepare\n")
    npm(t, "--silent", "start", label="start", status=0)
