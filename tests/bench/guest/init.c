// Process 1 of the floors: what remains of a machine when nobody runs anything
// in it. No libc, so that nothing but the kernel and these calls is measured.
//
//   (default)  ends at once: the kernel panics, panic=-1 restarts, QEMU ends
//   -DSTREAM   writes zeroes to the virtio-serial port for as long as it is read
#include <asm/unistd.h>

static long call(long n, long a, long b, long c, long d, long e)
{
#if defined(__x86_64__)
	long r;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return r;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
#else
#error "no system calls for this architecture"
#endif
}

#ifdef STREAM
// The size of one write, as a busy container's pipe has it.
static char block[64 << 10];

static void stream(void)
{
	const long here = -100, wronly = 1; // AT_FDCWD, O_WRONLY
	long millisecond[2] = {0, 1000000};
	long port;

	call(__NR_mount, (long)"dev", (long)"/dev", (long)"devtmpfs", 0, 0);
	// The port appears when the device has told of it.
	while ((port = call(__NR_openat, here, (long)"/dev/vport0p1", wronly, 0, 0)) < 0)
		call(__NR_nanosleep, (long)millisecond, 0, 0, 0, 0);
	while (call(__NR_write, port, (long)block, sizeof block, 0, 0) > 0)
		;
}
#endif

void _start(void)
{
#ifdef STREAM
	stream();
#endif
	call(__NR_exit, 0, 0, 0, 0, 0);
}
