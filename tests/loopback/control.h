/* control.h -- Modal's control plane.  account.c: tokens, apps, secrets, volumes; images.c: images;
 * control.c: sandboxes. */
#ifndef LOOPBACK_CONTROL_H
#define LOOPBACK_CONTROL_H

#include <stdbool.h>

#include "tests/loopback/rpc.h"

extern const struct rpc_method account_methods[];
extern const struct rpc_method image_methods[];
extern const struct rpc_method control_methods[];

#define CONTROL(name)	      "/modal.client.ModalClient/" name
#define CONTROL_REQUEST(name) &modal__client__##name##_request__descriptor

/* Token pair for every control-plane call, and x-modal-auth-token for V2 ones. */
bool control_admit(struct call *c, const struct rpc_method *method);

#endif
