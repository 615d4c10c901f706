"""Autoconf's scripts: thousands of lines of shell that m4 wrote, with files, descriptors and subshells of all kinds."""

from programs import case, run

CONFIGURE = rb"""
AC_INIT([sample], [1.0])
AC_CONFIG_AUX_DIR([.])
AC_CONFIG_HEADERS([config.h])
AC_PROG_CC
AC_CHECK_HEADERS([poll.h no_such_header.h])
AC_CHECK_FUNCS([dprintf no_such_function])
AC_CHECK_SIZEOF([long])
AC_ARG_ENABLE([extra], [AS_HELP_STRING([--enable-extra], [more])], [extra=$enableval], [extra=no])
AC_SUBST([extra])
AC_CONFIG_FILES([Makefile])
AC_CONFIG_COMMANDS([stamp], [echo "$word" > stamp], [word='it'"'"'s configured'])
AC_OUTPUT
"""


@case("autotools", "configure", limit_s=60)
def configure(t):
    """autoconf, autoheader, configure with options and a cache, config.status, and make with the result."""
    t.leave_out("autom4te.cache", "config.log", "cache", "configure~")
    t.write("configure.ac", CONFIGURE)
    t.write("Makefile.in", b"all: sample.txt ; @:\nsample.txt: Makefile\n\t@echo '@PACKAGE_STRING@ @extra@' | tee $@\n"
            b"Makefile: Makefile.in config.status\n\t@./config.status --file=$@ && echo made again\n")
    # temporary files have to be where the sandbox sees them
    env = t.env(TMPDIR=t.dir)
    run(t, "autoconf", label="autoconf", env=env, status=0)
    run(t, "autoheader", label="autoheader", env=env, status=0)
    t.check(t.finish(t.start_program("./configure", "--enable-extra", "--cache-file=cache", env=env)), "configure", status=0)
    run(t, "make", label="make", env=env, status=0, out=b"sample 1.0 yes\n")
    run(t, "make", "-W", "Makefile.in", label="again", env=env, status=0)
    t.check(t.finish(t.start_program("./configure", "--help")), "help", status=0)
    t.check(t.finish(t.start_program("./configure", "--no-such-option")), "refused", status=1)
    t.check(t.finish(t.start_program("./config.status", "--version")), "version", status=0)
