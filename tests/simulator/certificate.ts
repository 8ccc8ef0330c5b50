/** The certificate of simulated servers. It is fixed, so that a run depends only on its seed. */
import type { Certificate } from "../../transport/certificate/certificate.ts";

/** A certificate that simulated clients do not check; the key is public. */
export const SIMULATED_CERTIFICATE: Certificate = {
  cert: `-----BEGIN CERTIFICATE-----
MIIBfzCCASWgAwIBAgIUQzae6zroanknyYBKzu1lZ/3TW84wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJc2ltdWxhdGVkMCAXDTI2MTEyNjAxMzEwNloYDzIxMjYxMTAy
MDEzMTA2WjAUMRIwEAYDVQQDDAlzaW11bGF0ZWQwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATpkbSlcgkPLjUoCHTnrWrU6qbrR/2ANp/LXsjCbdmQhrwiex1YnIT5
2R7rSo3lkq2SlIZ8phcI51CztxTWu2p5o1MwUTAdBgNVHQ4EFgQUFLFFK3wyTrju
z0AmBPur8QoJDW0wHwYDVR0jBBgwFoAUFLFFK3wyTrjuz0AmBPur8QoJDW0wDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEA3lg1cyA39QS+eEzh8tNs
dMxJepW+erPlnNq1qCW3vcUCIEIqV5qIsTvKsckyRKmkHGyXtEiFCM4u2hwsjGMM
h2rX
-----END CERTIFICATE-----`,
  key: `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgDjAcZcX5TQqZb0pl
nCP6I9MRN06/bra/5HQp8dT1KXmhRANCAATpkbSlcgkPLjUoCHTnrWrU6qbrR/2A
Np/LXsjCbdmQhrwiex1YnIT52R7rSo3lkq2SlIZ8phcI51CztxTWu2p5
-----END PRIVATE KEY-----`,
};
