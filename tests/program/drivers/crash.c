/* A driver that ends the process as soon as it is loaded. */
__attribute__((constructor)) static void crash(void) { *(volatile int *)0 = 0; }
