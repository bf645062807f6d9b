/* Copyright (c) the natlb contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Sends TCP SYNs, each from another client address and port, and says how long the kernel was busy with them.
 *
 *     syn_sender INTERFACE CPU WARM-UP PACKETS SEED < destinations
 *
 * Destinations are lines of ADDRESS PORT, all of one family, taken in turn. Prints {"ns": nanoseconds for PACKETS,
 * "typical_ns": PACKETS times what one of the median batch took, "handled": packets that this CPU's receive path
 * handled by the time the last one was sent}. The frames are made beforehand; the first WARM-UP of them are sent before
 * the clock starts.
 *
 * Why SYNs: they are what opens a connection, and they take the longest way through connection tracking.
 * Why a packet socket with PACKET_QDISC_BYPASS: the frame goes straight to the driver. That of veth puts it into the
 * backlog of this CPU, and the kernel works that off before the send returns (local_bh_enable in __dev_direct_xmit).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, DESTINATIONS = 65536, TCP = 6, IPV4_HEADER = 20, IPV6_HEADER = 40, SEGMENT = 40, ROOM = 96 };

/* As Linux sends it: MSS 1460, SACK permitted, timestamps, window scale 7. */
static const uint8_t OPTIONS[20] = {2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7};
/* The two ends of the first wire, as first_packet.py names them. */
static const uint8_t ETHERNET[12] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1};

struct destination {
	uint8_t address[16];
	uint16_t port; /* network byte order */
};

struct job {
	int family;
	size_t destinations, frame, size;
	struct destination *to;
};

static uint32_t sum16(const uint8_t *data, size_t length, uint32_t sum)
{
	for (size_t i = 0; i + 1 < length; i += 2)
		sum += (uint32_t)data[i] << 8 | data[i + 1];
	return sum;
}

static void put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void put_checksum(uint8_t *at, uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	put16(at, ~sum & 0xffff);
}

/* splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014). */
static uint64_t mixed(uint64_t number)
{
	number += 0x9e3779b97f4a7c15ull;
	number = (number ^ number >> 30) * 0xbf58476d1ce4e5b9ull;
	number = (number ^ number >> 27) * 0x94d049bb133111ebull;
	return number ^ number >> 31;
}

/* Number `k` of a run. An odd factor goes through all 65536 clients before one comes again. */
static void make_frame(uint8_t *frame, const struct job *job, uint64_t seed, uint64_t k)
{
	const struct destination *to = &job->to[k % job->destinations];
	uint16_t client = (uint16_t)(k * 40503 + mixed(seed));
	uint64_t random = mixed(seed << 32 ^ k);
	uint8_t *ip = frame + ETH_HLEN, *source, *destination, *tcp;
	size_t bytes;

	memcpy(frame, ETHERNET, sizeof ETHERNET);
	if (job->family == AF_INET) {
		put16(frame + 12, ETH_P_IP);
		ip[0] = 0x45;
		put16(ip + 2, IPV4_HEADER + SEGMENT);
		put16(ip + 6, 0x4000); /* do not fragment */
		ip[8] = 64;
		ip[9] = TCP;
		source = ip + 12, destination = ip + 16, tcp = ip + IPV4_HEADER, bytes = 4;
		memcpy(source, (uint8_t[]){198, 19, (uint8_t)(client >> 8), (uint8_t)client}, bytes);
	} else {
		put16(frame + 12, ETH_P_IPV6);
		ip[0] = 0x60;
		put16(ip + 4, SEGMENT);
		ip[6] = TCP;
		ip[7] = 64;
		source = ip + 8, destination = ip + 24, tcp = ip + IPV6_HEADER, bytes = 16;
		memcpy(source, (uint8_t[16]){0x20, 1, 0x0d, 0xb8, 0, 0x19}, bytes);
		put16(source + 14, client);
	}
	memcpy(destination, to->address, bytes);
	if (job->family == AF_INET)
		put_checksum(ip + 10, sum16(ip, IPV4_HEADER, 0));

	put16(tcp, 1024 + (uint32_t)(random % 64512));
	memcpy(tcp + 2, &to->port, 2);
	memcpy(tcp + 4, (uint8_t[]){(uint8_t)(random >> 56), (uint8_t)(random >> 48), 1, 1}, 4);
	tcp[12] = SEGMENT / 4 << 4;
	tcp[13] = 2; /* SYN */
	put16(tcp + 14, 64240);
	memcpy(tcp + 20, OPTIONS, sizeof OPTIONS);
	put_checksum(tcp + 16, sum16(tcp, SEGMENT, sum16(source, 2 * bytes, TCP + SEGMENT)));
}

static void read_destinations(struct job *job)
{
	char address[64];
	unsigned port;

	job->to = calloc(DESTINATIONS, sizeof *job->to);
	if (!job->to)
		err(1, "memory");
	while (scanf("%63s %u", address, &port) == 2) {
		struct destination *to = &job->to[job->destinations];
		if (job->destinations == DESTINATIONS)
			errx(1, "more than %d destinations", DESTINATIONS);
		job->family = strchr(address, ':') ? AF_INET6 : AF_INET;
		if (inet_pton(job->family, address, to->address) != 1)
			errx(1, "not an address: %s", address);
		to->port = htons((uint16_t)port);
		job->destinations++;
	}
	if (!job->destinations)
		errx(1, "no destinations");
	job->frame = ETH_HLEN + (job->family == AF_INET ? IPV4_HEADER : IPV6_HEADER) + SEGMENT;
}

static int packet_socket(const char *interface)
{
	struct sockaddr_ll link = {.sll_family = AF_PACKET};
	int on = 1, fd = socket(AF_PACKET, SOCK_RAW, 0);

	link.sll_ifindex = (int)if_nametoindex(interface);
	if (!link.sll_ifindex)
		err(1, "%s", interface);
	if (fd < 0 || bind(fd, (struct sockaddr *)&link, sizeof link))
		err(1, "packet socket on %s", interface);
	if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on))
		err(1, "PACKET_QDISC_BYPASS");
	return fd;
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int ascending(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;
	return (a > b) - (a < b);
}

/* Returns nanoseconds per packet of the median batch. */
static double send_all(int fd, const struct job *job, uint8_t *frames, size_t first, size_t last)
{
	struct iovec data[BATCH];
	struct mmsghdr messages[BATCH];
	size_t batches = 0;
	double *ns = calloc(last - first + 1, sizeof *ns), median;

	if (!ns)
		err(1, "memory");

	memset(messages, 0, sizeof messages);
	while (first < last) {
		size_t count = last - first < BATCH ? last - first : BATCH;
		uint64_t began;
		int sent;
		for (size_t i = 0; i < count; i++) {
			data[i] = (struct iovec){frames + (first + i) * ROOM, job->frame};
			messages[i].msg_hdr = (struct msghdr){.msg_iov = &data[i], .msg_iovlen = 1};
		}
		began = now_ns();
		sent = sendmmsg(fd, messages, (unsigned)count, 0);
		if (sent <= 0)
			err(1, "packet %zu", first);
		ns[batches++] = (double)(now_ns() - began) / sent;
		first += (size_t)sent;
	}
	qsort(ns, batches, sizeof *ns, ascending);
	median = ns[batches / 2];
	free(ns);
	return median;
}

/* Packets that the receive path of a CPU has handled since boot: the first column of its line, in hexadecimal; its
 * number is in the 13th. */
static uint64_t handled_by(int cpu)
{
	FILE *file = fopen("/proc/net/softnet_stat", "r");
	char line[512];
	unsigned processed, number;

	if (!file)
		err(1, "/proc/net/softnet_stat");
	while (fgets(line, sizeof line, file))
		if (sscanf(line, "%x %*x %*x %*x %*x %*x %*x %*x %*x %*x %*x %*x %x", &processed, &number) == 2 &&
		    number == (unsigned)cpu) {
			fclose(file);
			return processed;
		}
	errx(1, "/proc/net/softnet_stat has no CPU %d", cpu);
}

int main(int argc, char **argv)
{
	struct job job = {0};
	cpu_set_t cpus;
	size_t warm_up, total;
	uint64_t began, ended, handled, seed;
	double typical;
	uint8_t *frames;
	int fd, cpu;

	if (argc != 6)
		errx(2, "usage: syn_sender INTERFACE CPU WARM-UP PACKETS SEED < destinations");
	cpu = atoi(argv[2]);
	warm_up = strtoul(argv[3], NULL, 10);
	total = warm_up + strtoul(argv[4], NULL, 10);
	seed = strtoull(argv[5], NULL, 10);
	read_destinations(&job);
	frames = calloc(total, ROOM);
	if (!frames)
		err(1, "memory");
	for (size_t k = 0; k < total; k++)
		make_frame(frames + k * ROOM, &job, seed, k);
	CPU_ZERO(&cpus);
	CPU_SET((unsigned)cpu, &cpus);
	if (sched_setaffinity(0, sizeof cpus, &cpus) || mlockall(MCL_CURRENT | MCL_FUTURE))
		err(1, "CPU %d", cpu);
	fd = packet_socket(argv[1]);

	send_all(fd, &job, frames, 0, warm_up);
	handled = handled_by(cpu);
	began = now_ns();
	typical = send_all(fd, &job, frames, warm_up, total);
	ended = now_ns();
	printf("{\"ns\": %llu, \"typical_ns\": %.0f, \"handled\": %u}\n", (unsigned long long)(ended - began),
	       typical * (double)(total - warm_up), (uint32_t)(handled_by(cpu) - handled));
	return 0;
}
