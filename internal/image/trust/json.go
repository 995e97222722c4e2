package trust

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// object reads a JSON object whose keys are exactly those of fields, in these letters, each at most once: two readers cannot take it for
// two things. It returns which came.
func object(b []byte, fields map[string]any) (map[string]bool, error) {
	has := map[string]bool{}
	err := each(b, func(key string, value json.RawMessage) error {
		dest, known := fields[key]
		if !known {
			return fmt.Errorf("unknown key %q", key)
		}
		has[key] = true
		if err := json.Unmarshal(value, dest); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		return nil
	})
	return has, err
}

// each calls use for each key of a JSON object, which must be all of b. A key that comes twice is an error.
func each(b []byte, use func(key string, value json.RawMessage) error) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return errNotObject
	}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return errNotObject
		}
		if seen[key] {
			return fmt.Errorf("the key %q comes twice", key)
		}
		seen[key] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
		if err := use(key, value); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errTrailing
	}
	return nil
}
