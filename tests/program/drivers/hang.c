/* A driver that never returns from its initialiser. */
#include <unistd.h>

__attribute__((constructor)) static void hang(void) {
    for (;;) pause();
}
