"""Runs every case through the local shell and through modalsh, and prints where the two differ."""

import argparse
import fnmatch
import os
import pickle
import select
import shutil
import signal
import sys
import tempfile
import time

import cases
import product
import programs
import worker

HERE = os.path.dirname(os.path.abspath(__file__))
ROWS = range(1, 103)            # the rows of the table of what has to be the same
GAP_LIMIT_S = 8                 # a case that is known not to hold need not be waited for
SHOWN_MAX = 160                 # characters of a value in a report
LINES_MAX = 8                   # differences of one case in a report
JOBS = 2 * (os.cpu_count() or 1)


class Task:
    """A case with one shell: both runs, and the verdict on them."""

    def __init__(self, case, dialect, gap):
        self.case, self.dialect, self.gap = case, dialect, gap
        self.id = f"{case.row}-{case.name}/{dialect}"
        self.limit_s = min(case.limit_s, GAP_LIMIT_S) if gap else case.limit_s
        self.reports = {}

    def sides_left(self, sides):
        """The sides on which it still has to run."""
        left = [side for side in sides if side.name not in self.reports]
        if not self.case.twin:
            left = [side for side in left if not side.is_oracle]
        if any(report.skip or report.broken for report in self.reports.values()):
            left = []
        return left


class Gaps:
    """The file of known gaps: lines with a glob for case names, or the number of a row without cases, and
    the reason."""

    def __init__(self, path):
        self.entries = []
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.strip() and not line.startswith("#"):
                    pattern, reason = line.split(None, 1)
                    self.entries.append((pattern, reason.strip()))

    def reason(self, case_id):
        """Why a case is a known gap, or None."""
        return next((reason for pattern, reason in self.entries if fnmatch.fnmatch(case_id, pattern)), None)

    def rows(self):
        """Rows without any case, with the reason."""
        return [(int(pattern), reason) for pattern, reason in self.entries if pattern.isdigit()]


def tasks_of(all_cases, gaps):
    """A task for each case and shell."""
    return [Task(case, dialect, gaps.reason(f"{case.row}-{case.name}/{dialect}"))
            for case in all_cases for dialect in case.shells]


def table_faults(all_cases, gaps, wanted_rows):
    """What is wrong with the table itself: rows that nobody answers for, entries that match nothing."""
    tasks = tasks_of(all_cases, gaps)
    faults = []
    rows = {case.row for case in all_cases}
    for row in wanted_rows:
        if row not in rows and row not in dict(gaps.rows()):
            faults.append(f"row {row} has neither a case nor an entry in known-gaps")
    for pattern, _ in gaps.entries:
        used = pattern.isdigit() and int(pattern) not in rows
        if not used and not any(fnmatch.fnmatch(task.id, pattern) for task in tasks):
            faults.append(f"known-gaps: {pattern} matches no case")
    names = [task.id for task in tasks]
    faults += [f"{name} exists twice" for name in set(names) if names.count(name) > 1]
    return faults


def is_wanted(task, pattern, shell):
    """Whether the options select this task."""
    if shell not in ("both", task.dialect):
        return False
    names = (task.id, f"{task.case.row}-{task.case.name}", task.case.name, str(task.case.row))
    return any(fnmatch.fnmatch(name, pattern) for name in names)


class Pool:
    """Runs tasks in worker processes; a task's two runs follow each other in the same folder."""

    def __init__(self, sides, top, jobs, report):
        self._sides, self._top, self._jobs, self._report = sides, top, jobs, report
        self._poll = select.poll()
        self._running = {}
        self._count = 0

    def run(self, tasks):
        """Runs all of them, those that want to be alone at the end."""
        for jobs, queue in ((self._jobs, [task for task in tasks if not task.case.alone]),
                            (1, [task for task in tasks if task.case.alone])):
            queue.sort(key=lambda task: task.gap is None)
            while queue or self._running:
                while queue and len(self._running) < jobs:
                    self._count += 1
                    self._begin(queue.pop(0), os.path.join(self._top, f"case-{self._count}"))
                self._step()

    def stop(self):
        """Ends what still runs."""
        for pid, *_ in self._running.values():
            self._kill(pid)

    def _begin(self, task, folder):
        left = task.sides_left(self._sides)
        if not left:
            self._report(task)
            return
        pid, fd = worker.start(task.case, task.dialect, left[0], folder, task.limit_s)
        by = time.monotonic() + task.limit_s + worker.KILL_GRACE_S
        self._running[fd] = (pid, task, left[0], folder, by, bytearray())
        self._poll.register(fd, select.POLLIN)

    def _step(self):
        ready = [fd for fd, _ in self._poll.poll(500)]
        for fd, (pid, task, side, folder, by, got) in list(self._running.items()):
            if fd in ready:
                piece = os.read(fd, 1 << 16)
                got += piece
                if piece:
                    continue
            elif time.monotonic() < by:
                continue
            else:
                self._kill(pid)
            self._poll.unregister(fd)
            os.close(fd)
            del self._running[fd]
            os.waitpid(pid, 0)
            task.reports[side.name] = _unpacked(got, task)
            self._begin(task, folder)

    @staticmethod
    def _kill(pid):
        os.kill(pid, signal.SIGSTOP)
        worker.kill_descendants(pid)
        os.kill(pid, signal.SIGKILL)


def _unpacked(got, task):
    try:
        return pickle.loads(got)
    except (EOFError, pickle.UnpicklingError):
        report = worker.Report()
        report.notes = [("case", f"stuck: killed {worker.KILL_GRACE_S} s after {task.limit_s} s")]
        report.wrong = ["the case was stuck"]
        return report


def oracle_faults(task):
    """What is wrong with the local run itself, a line each. No known gap excuses it."""
    local = task.reports.get("local")
    return [f"the local shell is not as expected: {text}" for text in local.wrong] if local else []


def differences(task):
    """What differs between the two runs of a task, a line each; none when they are the same."""
    for name, report in task.reports.items():
        if report.broken:
            return [f"the case failed in the {name} run: {report.broken}"]
    local, ours = task.reports.get("local"), task.reports["modalsh"]
    if local is None:
        return ours.wrong
    lines = oracle_faults(task)
    local_notes, our_notes = dict(local.notes), dict(ours.notes)
    for label in dict(local.notes + ours.notes):
        here, there = local_notes.get(label, "nothing"), our_notes.get(label, "nothing")
        if here != there:
            lines.append(_difference(label, here, there))
    return lines


def _difference(label, here, there):
    if isinstance(here, list) and isinstance(there, list):
        here, there = ([each for each in here if each not in there],
                       [each for each in there if each not in here])
    return f"{label}: local {_shown(here, there)}, modalsh {_shown(there, here)}"


def _shown(value, other):
    """The value, from a little before the place where it starts to differ."""
    text, against = (each if isinstance(each, str) else repr(each) for each in (value, other))
    if len(text) <= SHOWN_MAX:
        return text
    at = len(os.path.commonprefix([text, against]))
    start = max(0, min(at - 30, len(text) - SHOWN_MAX))
    return ("…" if start else "") + text[start:start + SHOWN_MAX] + f"… ({len(text)} characters)"


class Tally:
    """Counts verdicts and prints those worth a line."""

    def __init__(self, verbose):
        self.same = self.different = self.skipped = self.unearned = 0
        self._verbose = verbose

    def add(self, task):
        """The verdict on a task whose runs are over."""
        reason = next((report.skip for report in task.reports.values() if report.skip), None)
        if reason:
            self.skip_unearned(task, reason)
            return
        lines = differences(task)
        if lines and task.gap and not oracle_faults(task):
            self.skip(f"known gap  {task.id}: {task.gap}")
            if self._verbose:
                print("             " + lines[0])
        elif lines:
            self.different += 1
            if len(lines) > LINES_MAX:
                lines[LINES_MAX:] = [f"and {len(lines) - LINES_MAX} more"]
            print(f"different  {task.id}: " + "\n             ".join(lines), flush=True)
        else:
            self.same += 1
            if task.gap:
                print(f"gap closed {task.id}: same now, take it off known-gaps", flush=True)
            elif self._verbose:
                took_s = " ".join(f"{report.took_s:.1f} s" for report in task.reports.values())
                print(f"same       {task.id}  {took_s}", flush=True)

    def skip_unearned(self, task, reason):
        """Something that could not be compared here, though it is not a known gap."""
        self.unearned += 1
        self.skip(f"skipped    {task.id}: {reason}")

    def skip(self, line):
        """Something that was not compared."""
        self.skipped += 1
        print(line, flush=True)

    def line(self):
        """The closing line."""
        return f"same {self.same}, different {self.different}, skipped {self.skipped}"


def run_tasks(tasks, found, options):
    """Runs the tasks against a product; returns the tally."""
    tally = Tally(options.verbose)
    if not found.is_real:
        for task in [task for task in tasks if not task.case.twin]:
            tally.skip_unearned(task, "a promise of modalsh's own, and MODALSH_SOCKET is not set")
        tasks = [task for task in tasks if task.case.twin]
    local_bin = tempfile.mkdtemp(prefix="conform-local-")
    top = tempfile.mkdtemp(prefix="conform-", dir=found.share)
    sides = [product.local_side(local_bin), worker.Side("modalsh", found.bin, found.env, False)]
    if options.programs:
        sides = product.replaced_sides(found)
    worker.become_subreaper()
    pool = Pool(sides, top, options.jobs, tally.add)
    try:
        pool.run(tasks)
    finally:
        pool.stop()
        worker.reap_descendants()
        shutil.rmtree(local_bin)
        shutil.rmtree(top, ignore_errors=True)
    return tally


def options_from(argv):
    """The command line."""
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__)
    parser.add_argument("--programs", action="store_true",
                        help="programs that start shells, with modalsh in the place of sh and bash")
    parser.add_argument("--list", action="store_true", help="print the cases and the known gaps, and end")
    parser.add_argument("--only", default="*", metavar="PATTERN",
                        help="only cases whose row, name or id matches this glob: 27, fifo, '4?-*/bash'")
    parser.add_argument("--shell", choices=("dash", "bash", "both"), default="both")
    parser.add_argument("--jobs", type=int, default=JOBS, metavar="N", help=f"at once, default {JOBS}")
    parser.add_argument("--env", metavar="FILE", default=os.environ.get("MODALSH_TRY_ENV"),
                        help="what `try.sh --up` wrote; default $MODALSH_TRY_ENV, else a set-up of our own")
    parser.add_argument("--share", metavar="DIR", help="the shared folder, when FILE does not name it")
    parser.add_argument("--verbose", action="store_true", help="print also what is the same")
    return parser.parse_args(argv)


def print_list(tasks, gaps):
    """One line for each case, and for each row without one."""
    for task in tasks:
        print(f"{task.id:44} {task.case.about}" + (f"  [known gap: {task.gap}]" if task.gap else ""))
    for row, reason in gaps.rows():
        print(f"{row:<44} [known gap: {reason}]")


def main(argv, all_cases=None, gaps_path=None):
    """Returns the exit status: 0 when nothing differs; with MODALSH_MUST_WORK=1 a skip that is not a known
    gap is a failure as well."""
    options = options_from(argv)
    gaps = Gaps(gaps_path or os.path.join(HERE, "programs" if options.programs else "", "known-gaps"))
    if all_cases is None:
        all_cases = (programs if options.programs else cases).load_all()
        faults = table_faults(all_cases, gaps, () if options.programs else ROWS)
        if faults:
            print("\n".join(faults))
            return 2
    tasks = [task for task in tasks_of(all_cases, gaps)
             if is_wanted(task, options.only, options.shell)]
    if options.list:
        print_list(tasks, gaps)
        return 0
    try:
        found = product.find(options.env, options.share)
    except product.NoProduct as reason:
        print(f"run.sh: {reason}", file=sys.stderr)
        return 2
    try:
        tally = run_tasks(tasks, found, options)
    finally:
        found.stop()
    for row, reason in gaps.rows():
        if fnmatch.fnmatch(str(row), options.only):
            if reason.startswith("elsewhere: "):
                print(f"elsewhere  {row}: {reason.partition(': ')[2]}", flush=True)
            else:
                tally.skip(f"known gap  {row}: {reason}")
    print(tally.line())
    must_work = os.environ.get("MODALSH_MUST_WORK") == "1"
    return 1 if tally.different or must_work and tally.unearned or not tally.same + tally.skipped else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    sys.exit(main(sys.argv[1:]))
