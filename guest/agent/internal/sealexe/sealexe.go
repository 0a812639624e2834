//go:build linux

// Package sealexe makes process 1 run from a sealed memfd instead of the
// initramfs. Import it for its effect.
//
// libcontainer re-executes /proc/self/exe inside containers, where it must not
// be writable (CVE-2019-5736). Unless it finds itself in a sealed memfd it makes
// a safe copy for every process it starts, which under TCG costs more than
// starting the process. The copy made here once at boot serves them all, is part
// of every template, and lets the initramfs's own copy be freed.
//
// It is a C constructor so that the Go runtime starts once and not twice.
package sealexe

/*
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#define SEALED_NAME "agent"
#define ALL_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

// fail tells what went wrong on the console the kernel gave us as fd 2 and lets
// the boot go on from the initramfs: slower, but working.
static void fail(const char *what)
{
	static const char head[] = "agent: seal: ";
	const char *why = strerror(errno);
	(void)!write(2, head, sizeof head - 1);
	(void)!write(2, what, strlen(what));
	(void)!write(2, ": ", 2);
	(void)!write(2, why, strlen(why));
	(void)!write(2, "\n", 1);
}

static int sealed_copy(const char *path)
{
	struct stat st;
	int src = open(path, O_RDONLY | O_CLOEXEC);
	if (src < 0 || fstat(src, &st) < 0)
		return -1;
	char *map = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, src, 0);
	close(src);
	if (map == MAP_FAILED)
		return -1;
	int fd = syscall(SYS_memfd_create, SEALED_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
	if (fd < 0)
		return -1;
	for (off_t done = 0; done < st.st_size;) {
		ssize_t n = write(fd, map + done, st.st_size - done);
		if (n <= 0)
			return -1;
		done += n;
	}
	munmap(map, st.st_size);
	if (fchmod(fd, 0555) < 0)
		return -1;
	fcntl(fd, F_ADD_SEALS, F_SEAL_EXEC); // Linux 6.3; a bonus, as in libcontainer
	if (fcntl(fd, F_ADD_SEALS, ALL_SEALS) < 0)
		return -1;
	return fd;
}

__attribute__((constructor)) static void seal_exe(int argc, char **argv, char **envp)
{
	// The kernel starts us as "/init", we start ourselves as "agent".
	if (getpid() != 1 || argc < 1 || strcmp(argv[0], "/init") != 0)
		return;
	int fd = sealed_copy("/init");
	if (fd < 0) {
		fail("copy /init");
		return;
	}
	// The agent holds many pipes. Here because Go raises its soft limit to the
	// hard one when it starts, and that of process 1 is 4096.
	struct rlimit nofile = { 1024, 1048576 };
	if (setrlimit(RLIMIT_NOFILE, &nofile) < 0)
		fail("rlimit");
	unlink("/init");
	char *args[] = { SEALED_NAME, NULL };
	syscall(SYS_execveat, fd, "", args, envp, AT_EMPTY_PATH);
	fail("execveat");
}
*/
import "C"
