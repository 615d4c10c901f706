/* faults.h -- what goes wrong above TLS, on purpose.  Lines that are written into a fifo say what;
 * they concern the router's calls alone, goaway and terminate the connections that they are on:
 *   goaway           every connection is told to make no further calls; those that are open go on
 *   terminate        the same, and it is closed
 *   reset            RST_STREAM for every open call
 *   end CODE         every open call ends with this gRPC status
 *   unavailable MS   so do new calls, with UNAVAILABLE, for that long
 *   advertise PORT   router addresses name this port from now on */
#ifndef LOOPBACK_FAULTS_H
#define LOOPBACK_FAULTS_H

struct h2_server;
struct rpc_server;
struct faults;

/* Reads from the fifo, which is made when it is not there.  NULL with errno when it cannot.  Both
 * servers must stay. */
struct faults *faults_open(const char *path, struct h2_server *h2, struct rpc_server *rpc);
/* NULL is fine. */
void faults_free(struct faults *faults);

#endif
