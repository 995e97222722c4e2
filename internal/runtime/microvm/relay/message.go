package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Requests of vhost-user that are used here.
const (
	getFeatures         = 1
	setFeatures         = 2
	setOwner            = 3
	setMemTable         = 5
	setVringNum         = 8
	setVringAddr        = 9
	setVringBase        = 10
	getVringBase        = 11
	setVringKick        = 12
	setVringCall        = 13
	setVringErr         = 14
	getProtocolFeatures = 15
	setProtocolFeatures = 16
	getQueueNum         = 17
	setVringEnable      = 18
)

// Flags of a message.
const (
	version     = 1
	versionMask = 3
	flagReply   = 1 << 2
	flagAck     = 1 << 3 // a reply is asked for
)

// Features, of the device and of the protocol.
const (
	featureIndirect = 1 << 28 // VIRTIO_RING_F_INDIRECT_DESC
	featureProtocol = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	featureVersion1 = 1 << 32 // VIRTIO_F_VERSION_1
	protocolMQ      = 1 << 0
	protocolAck     = 1 << 3
)

const (
	headerLen  = 12
	maxPayload = 4 << 10 // bytes: a table of eight regions has 264
	maxFiles   = 8
	noFile     = 1 << 8 // in the number of a queue: no descriptor comes along
)

// message is one of vhost-user, with the descriptors that came along.
type message struct {
	request, flags uint32
	payload        []byte
	files          []int
}

// close closes the descriptors that nobody took.
func (m *message) close() {
	for _, fd := range m.files {
		unix.Close(fd)
	}
	m.files = nil
}

// file takes the one descriptor of a message.
func (m *message) file() (int, error) {
	if len(m.files) != 1 {
		return -1, fmt.Errorf("request %d with %d descriptors instead of one", m.request, len(m.files))
	}
	fd := m.files[0]
	m.files = nil
	return fd, nil
}

// number is 64 bits of a payload.
func (m *message) number(i int) uint64 { return binary.LittleEndian.Uint64(m.payload[8*i:]) }

// state is two numbers of 32 bits.
func (m *message) state() (index, value uint32) {
	return binary.LittleEndian.Uint32(m.payload), binary.LittleEndian.Uint32(m.payload[4:])
}

// peer is who is at the other end of a connection.
type peer struct{ c *net.UnixConn }

func newPeer(f *os.File) (peer, error) {
	c, err := net.FileConn(f) // a copy
	if err != nil {
		return peer{}, err
	}
	return peer{c.(*net.UnixConn)}, nil
}

// receive takes a message. An error of the connection is as it is: io.EOF, where the other has ended.
func (p peer) receive() (m message, err error) {
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	var head [headerLen]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	for at := 0; at < len(head); {
		n, oobn, flags, _, err := p.c.ReadMsgUnix(head[at:], oob)
		if err != nil {
			return m, err
		}
		if err := m.take(oob[:oobn]); err != nil {
			return m, err
		}
		if flags&unix.MSG_CTRUNC != 0 {
			return m, errors.New("more descriptors than any request has")
		}
		at += n
	}
	m.request, m.flags = binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:])
	n := binary.LittleEndian.Uint32(head[8:])
	if m.flags&versionMask != version || n > maxPayload {
		return m, fmt.Errorf("request %d of version %d with %d bytes", m.request, m.flags&versionMask, n)
	}
	m.payload = make([]byte, n)
	for at := 0; at < len(m.payload); {
		k, err := p.c.Read(m.payload[at:])
		if err != nil {
			return m, err
		}
		at += k
	}
	return m, nil
}

// take finds descriptors in a control message.
func (m *message) take(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for i := range list {
		fds, err := unix.ParseUnixRights(&list[i])
		if err != nil {
			return err
		}
		m.files = append(m.files, fds...)
	}
	for _, fd := range m.files {
		unix.CloseOnExec(fd)
	}
	return nil
}

// send sends a message, with descriptors that stay the sender's.
func (p peer) send(request, flags uint32, payload []byte, fds ...int) error {
	b := binary.LittleEndian.AppendUint32(nil, request)
	b = binary.LittleEndian.AppendUint32(b, flags|version)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err := p.c.WriteMsgUnix(append(b, payload...), rights, nil)
	return err
}

// answerTime is how long virtiofsd may take to answer: many times what it needs.
const answerTime = 20 * time.Second

// ask sends a request and reads the number that is the answer.
func (p peer) ask(request uint32) (uint64, error) {
	if err := p.send(request, 0, nil); err != nil {
		return 0, err
	}
	if err := p.c.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return 0, err
	}
	m, err := p.receive()
	if err != nil {
		return 0, err
	}
	defer m.close()
	if m.request != request || m.flags&flagReply == 0 || len(m.payload) != 8 {
		return 0, fmt.Errorf("the answer to request %d is none", request)
	}
	return m.number(0), nil
}

// words are numbers of 64 bits as a payload.
func words(list ...uint64) (b []byte) {
	for _, n := range list {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

// pair is an index and a value of 32 bits as a payload.
func pair(index, value int) []byte { return words(uint64(uint32(index)) | uint64(uint32(value))<<32) }
