// Names and defaults of connection tracking, by number (contract/ct.ts). The data plane knows no strings.

/** By CT_TCP_*: Open vSwitch's words, as dumps show them. */
export const TCP_STATE_NAMES: readonly string[] = [
  'CLOSED',
  'LISTEN',
  'SYN_SENT',
  'SYN_RECV',
  'ESTABLISHED',
  'CLOSE_WAIT',
  'FIN_WAIT_1',
  'CLOSING',
  'LAST_ACK',
  'FIN_WAIT_2',
  'TIME_WAIT',
];

/** By CT_TM_*: the key of CT_Timeout_Policy.timeouts that sets it. Other keys mean nothing to a userspace datapath. */
export const TIMEOUT_NAMES: readonly { name: string; defaultSeconds: number }[] = [
  { name: 'tcp_syn_sent', defaultSeconds: 30 },
  { name: 'tcp_syn_recv', defaultSeconds: 30 },
  { name: 'tcp_established', defaultSeconds: 86400 },
  { name: 'tcp_fin_wait', defaultSeconds: 900 },
  { name: 'tcp_time_wait', defaultSeconds: 45 },
  { name: 'tcp_close', defaultSeconds: 30 },
  { name: 'udp_first', defaultSeconds: 60 },
  { name: 'udp_single', defaultSeconds: 60 },
  { name: 'udp_multiple', defaultSeconds: 30 },
  { name: 'icmp_first', defaultSeconds: 60 },
  { name: 'icmp_reply', defaultSeconds: 30 },
];

/** By CTK_* / 8. */
export const COUNTER_NAMES: readonly string[] = [
  'packets',
  'hits',
  'created',
  'expired',
  'flushed',
  'invalid_not_ip',
  'invalid_l3',
  'invalid_l3_checksum',
  'invalid_l4',
  'invalid_l4_checksum',
  'invalid_fragment',
  'invalid_tcp',
  'invalid_new',
  'invalid_icmp_error',
  'refused_full',
  'refused_zone_full',
  'refused_nat_exhausted',
  'commit_races',
  'fragments_held',
  'fragments_reassembled',
  'fragments_expired',
];
