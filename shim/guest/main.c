/* modalsh-guest -- in the sandbox: starts, feeds, signals and reaps the commands. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shim/base/err.h"
#include "shim/base/fd.h"
#include "shim/guest/attach.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

static int
usage(void)
{
	fputs("usage: modalsh-guest attach [--dir DIR]\n"
	      "       modalsh-guest --version\n",
	      stderr);
	return EXIT_USAGE;
}

static int
attach(const char *dir)
{
	struct err err = { 0 };

	if (attach_run(dir, environ, &err) == 0)
		return 0;
	fprintf(stderr, "modalsh-guest: %s\n", err.text);
	return EXIT_FAILED;
}

int
main(int argc, char **argv)
{
	bool was_open[3];

	if (fd_ensure_stdio(was_open) < 0)
		return EXIT_FAILED;
	if (argc == 2 && strcmp(argv[1], "--version") == 0)
		return puts("modalsh-guest " MODALSH_VERSION) < 0 ? EXIT_FAILED : 0;
	if (argc == 2 && strcmp(argv[1], "attach") == 0)
		return attach(NULL);
	if (argc == 4 && strcmp(argv[1], "attach") == 0 && strcmp(argv[2], "--dir") == 0)
		return attach(argv[3]);
	return usage();
}
