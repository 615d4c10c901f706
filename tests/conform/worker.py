"""Runs one case on one side in a process of its own, and leaves no process of it behind."""

import ctypes
import fcntl
import os
import pickle
import resource
import shutil
import signal
import sys
import time
import traceback

import mounts
from trial import Skip, Trial

PR_SET_CHILD_SUBREAPER = 36
KILL_GRACE_S = 8                # a case that does not even notice its time limit is killed after this
EXIT_BROKEN = 70
REPORT_FD = 200                 # the lowest number that the report's pipe may have in a worker

libc = ctypes.CDLL(None, use_errno=True)


class Report:
    """What a worker sends back: notes, guards that did not hold, a reason to skip, a traceback,
    and the seconds that it took."""

    def __init__(self):
        self.notes, self.wrong, self.skip, self.broken, self.took_s = [], [], None, None, 0


class Side:
    """One of the two things compared: where its shells are and what environment they need. replacing: the
    folder of the programs that stand in the place of the machine's own shells."""

    def __init__(self, name, folder, env, is_oracle, replacing=None):
        self.name, self.bin, self.env, self.is_oracle = name, folder, env, is_oracle
        self.replacing = replacing


class OutOfTime(BaseException):
    """The case has taken longer than its limit. Not an Exception, so that no case swallows it."""


def become_subreaper():
    """Orphans below this process become its children, so that they can be found."""
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def children_of(pid):
    """The process ids of a process's children."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def kill_descendants(pid):
    """Kills everything below pid; orphans that move up meanwhile are found in the next round."""
    for child in children_of(pid):
        kill_descendants(child)
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            pass


def reap_descendants():
    """Kills and reaps everything below this process."""
    while True:
        kill_descendants(os.getpid())
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def start(case, dialect, side, folder, limit_s):
    """Starts a worker; returns its pid and the descriptor on which its report arrives."""
    read_fd, write_fd = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(write_fd)
        return pid, read_fd
    status = EXIT_BROKEN
    try:
        write_fd = _keep_only(write_fd)
        _work(case, dialect, side, folder, limit_s, write_fd)
        status = 0
    finally:
        os._exit(status)


def _work(case, dialect, side, folder, limit_s, report_fd):
    _make_plain()
    begun = time.monotonic()
    report = Report()
    trial = Trial(side, dialect, folder, guarded=side.is_oracle or not case.twin)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    os.chdir(folder)
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        if side.replacing:
            mounts.replace_shells(side.replacing)
        case.run(trial)
        if case.twin:
            trial.see_files()
    except Skip as reason:
        report.skip = str(reason)
    except OutOfTime:
        trial.see("case", f"not over after {limit_s} s, in {_last_line_in_case()}", "over")
    except Exception:
        report.broken = traceback.format_exc()
    signal.setitimer(signal.ITIMER_REAL, 0)
    report.notes, report.wrong = trial.notes, trial.wrong
    report.took_s = time.monotonic() - begun
    os.chdir("/")
    reap_descendants()
    shutil.rmtree(folder, ignore_errors=True)
    with os.fdopen(report_fd, "wb") as file:
        pickle.dump(report, file)


def _keep_only(fd):
    """Closes what was inherited but fd, which moves out of the way of the numbers that cases use."""
    kept_fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, REPORT_FD)
    os.closerange(3, kept_fd)
    os.closerange(kept_fd + 1, os.sysconf("SC_OPEN_MAX"))
    return kept_fd


def _make_plain():
    """The state that commands inherit, whatever the runner was started from."""
    os.setsid()
    become_subreaper()
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) == signal.SIG_IGN and number != signal.SIGPIPE:
            signal.signal(number, signal.SIG_DFL)
    with open(os.devnull, "r+b", buffering=0) as null:
        for fd in (0, 1):
            os.dup2(null.fileno(), fd)


_where = ["its start"]


def _out_of_time(_number, frame):
    while frame is not None and "/cases/" not in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is not None:
        _where[0] = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
    raise OutOfTime


def _last_line_in_case():
    return _where[0]
