package cli

import (
	"strings"
	"testing"
	"time"

	"brig/api"
)

func TestEvents(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	attributes := map[string]string{"image": "brig/base", "name": "web", "tier": "front"}
	f := &fake{happened: []api.Event{
		{Time: at, Action: "start", ID: testID, Attributes: attributes},
		{Time: at, Action: "die", ID: testID, Attributes: map[string]string{"image": "debian:12", "name": "job", "exitCode": "3"}},
	}}
	line := at.Local().Format(logTime) + " container start " + testID + " (image=brig/base, name=web, tier=front)\n"
	brig(t, f, "events", "--filter", "container=web").wants(t, 0, line)
	brig(t, f, "events", "--filter", "label=tier=front", "--filter", "type=container").wants(t, 0, line)
	brig(t, f, "events", "--filter", "type=image").wants(t, 0, "")
	brig(t, f, "events", "--filter", "event=die", "--format", "{{.Action}} {{.Actor.Attributes.exitCode}}").wants(t, 0, "die 3\n")
	brig(t, f, "events", "--filter", "image=debian:12", "--format", "json").wants(t, 0, `{"status":"die","id":"`+testID+
		`","from":"debian:12","Type":"container","Action":"die","Actor":{"ID":"`+testID+`","Attributes":{"exitCode":"3","image":"debian:12","name":"job"}},`+
		`"scope":"local","time":1767323045,"timeNano":1767323045000000006}`+"\n")
	brig(t, f, "events", "--stream=false")
	if got := strings.Join(f.calls, ","); !strings.HasSuffix(got, "events false false") {
		t.Errorf("--stream=false asks for %s", got)
	}
	brig(t, f, "events", "--filter", "daemon=x").complains(t, 125, "brig: invalid argument")
}
