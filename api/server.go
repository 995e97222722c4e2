package api

// MetricsRequest asks for figures to be told. It is what `brig` hands to `brigd`, as JSON.
type MetricsRequest struct {
	Addr    string `json:"addr,omitempty"` // host:port to serve at; port 0 is one that is free; empty: once, to the standard output
	Version string `json:"version,omitempty"`
}

// RegistryRequest asks for a registry to be served. It is what `brig` hands to `brigd`, as JSON.
type RegistryRequest struct {
	Addr     string   `json:"addr"`               // host:port; port 0 is one that is free
	TLSCert  string   `json:"tlsCert,omitempty"`  // file, PEM: the certificate and those between it and its authority
	TLSKey   string   `json:"tlsKey,omitempty"`   // file, PEM
	Htpasswd string   `json:"htpasswd,omitempty"` // file, as htpasswd -B writes it; empty: no password is asked for
	ReadOnly bool     `json:"readOnly,omitempty"`
	Mirrors  []string `json:"mirrors,omitempty"` // DOMAIN or DOMAIN=URL
}
