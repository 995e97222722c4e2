// Package record writes Go values as JSON with the field tags of encoding/json, without getting ready for types first.
//
// A process of Brig writes one record and ends. encoding/json studies each type before the first value of it, with all types
// within, and for api.Container that takes ten times as long as writing it: a good part of a container's start. Here only
// what is written is looked at: a field that is left out costs nothing but the look at its tag.
//
// What it writes is plain JSON, and encoding/json reads the same values from it. It knows the kinds of types that records are made of; any other
// is an error, never a silent loss: embedded pointers, interfaces, floating point and types with MarshalJSON (but for
// time.Time) are not among them.
package record

import (
	"encoding"
	"encoding/base64"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Marshal returns v as JSON.
func Marshal(v any) ([]byte, error) {
	return encode(make([]byte, 0, 2048), reflect.ValueOf(v))
}

// encode appends a value.
func encode(b []byte, v reflect.Value) ([]byte, error) {
	if v.Kind() == reflect.Struct || v.Kind() == reflect.Slice {
		switch x := v.Interface().(type) {
		case time.Time:
			return quote(b, x.Format(time.RFC3339Nano)), nil
		case encoding.TextMarshaler:
			text, err := x.MarshalText()
			return quote(b, string(text)), err
		case interface{ MarshalJSON() ([]byte, error) }:
			return nil, fmt.Errorf("record: cannot write a %s, which has a form of its own", v.Type())
		}
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(b, v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	case reflect.String:
		return quote(b, v.String()), nil
	case reflect.Pointer:
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		return encode(b, v.Elem())
	case reflect.Struct:
		return encodeStruct(b, v)
	case reflect.Map:
		return encodeMap(b, v)
	case reflect.Slice, reflect.Array:
		return encodeList(b, v)
	}
	return nil, fmt.Errorf("record: cannot write a %s", v.Type())
}

func encodeStruct(b []byte, v reflect.Value) ([]byte, error) {
	b, err := encodeFields(append(b, '{'), v)
	return append(b, '}'), err
}

// encodeFields appends the fields of a struct, those of an embedded one in their place, without the braces.
func encodeFields(b []byte, v reflect.Value) ([]byte, error) {
	t := v.Type()
	for i := range v.NumField() {
		field := t.Field(i)
		tag := field.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		f := v.Field(i)
		var err error
		if field.Anonymous && tag == "" {
			if f.Kind() != reflect.Struct {
				return nil, fmt.Errorf("record: cannot write the embedded %s", field.Type)
			}
			if b, err = encodeFields(b, f); err != nil {
				return nil, err
			}
			continue
		}
		if !field.IsExported() || tag == "-" {
			continue
		}
		if name == "" {
			name = field.Name
		}
		if options != "" {
			switch {
			case options == "omitempty" && isEmpty(f), options == "omitzero" && isZero(f):
				continue
			case options != "omitempty" && options != "omitzero":
				return nil, fmt.Errorf("record: field %s.%s: unknown option %q", t, field.Name, options)
			}
		}
		if b[len(b)-1] != '{' { // no value ends so
			b = append(b, ',')
		}
		b = append(quote(b, name), ':')
		if b, err = encode(b, f); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func encodeMap(b []byte, v reflect.Value) ([]byte, error) {
	if v.IsNil() {
		return append(b, "null"...), nil
	}
	if v.Type().Key().Kind() != reflect.String {
		return nil, fmt.Errorf("record: cannot write a %s", v.Type())
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(x, y reflect.Value) int { return strings.Compare(x.String(), y.String()) })
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(quote(b, k.String()), ':')
		var err error
		if b, err = encode(b, v.MapIndex(k)); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func encodeList(b []byte, v reflect.Value) ([]byte, error) {
	if v.Kind() == reflect.Slice {
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			b = append(b, '"')
			b = base64.StdEncoding.AppendEncode(b, v.Bytes())
			return append(b, '"'), nil
		}
	}
	b = append(b, '[')
	for i := range v.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = encode(b, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

// isEmpty is omitempty's condition.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map, reflect.String, reflect.Array:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// isZero is omitzero's condition.
func isZero(v reflect.Value) bool {
	if z, ok := v.Interface().(interface{ IsZero() bool }); ok {
		return z.IsZero()
	}
	return v.IsZero()
}

// quote appends a string, RFC 8259, section 7. Bytes that are not UTF-8 become U+FFFD, as in encoding/json.
func quote(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || n != 1 {
				i += n
				continue
			}
			b = append(append(b, s[from:i]...), "\ufffd"...)
		} else {
			b = append(b, s[from:i]...)
			if c == '"' || c == '\\' {
				b = append(b, '\\', c)
			} else {
				b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
			}
		}
		i++
		from = i
	}
	return append(append(b, s[from:]...), '"')
}
