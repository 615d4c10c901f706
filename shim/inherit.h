/* inherit.h -- what a local child would inherit from the caller besides descriptors, arguments and
 * environment. */
#ifndef SHIM_INHERIT_H
#define SHIM_INHERIT_H

#include "proto/job.h"
#include "shim/base/err.h"

/* The working directory, without allocation.  One that was removed has the path it had.  Returns
 * its length, or -errno with *err set when it has no absolute path of at most CWD_LEN_MAX bytes. */
int inherit_cwd(char path[CWD_LEN_MAX + 1], struct err *err);

/* Finds the inherited descriptors from 3 on, the lowest `max` of them; to be called before any
 * other is opened.  Returns how many there are in fds. */
size_t inherit_descriptors(int *fds, size_t max);

/* Fills in umask, nice and limits of *start. */
void inherit_settings(struct job_start *start);

#endif
