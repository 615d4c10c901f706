/* tree.h -- copying and removing directory trees.  Blocking: for child processes (see worker.h). */
#ifndef LOOPBACK_TREE_H
#define LOOPBACK_TREE_H

/* Copies the contents of directory `from` into `to`, which is made when missing: files,
 * directories, links, FIFOs, with owners, modes and times; hard links become files of their own.
 * Returns 0 or -errno. */
int tree_copy(const char *from, const char *to);

/* Copies one file, link or tree to a name that does not exist.  -ENOENT when there is nothing. */
int tree_copy_entry(const char *from, const char *to);

/* Removes everything below and including path; what is missing is fine.  Returns 0 or -errno. */
int tree_remove(const char *path);

/* mkdir -p */
int tree_make(const char *path);

#endif
