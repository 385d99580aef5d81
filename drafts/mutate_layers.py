import subprocess,sys,os,time
root=sys.argv[1]; which=sys.argv[2:]
L='crates/persist-layers/src/'
M=[
('retry_unknown',L+'retry.rs','(lost && fence.is_some())','lost',['--test','retry']),
('retry_later_item',L+'retry.rs','harmless(error) && !done.contains(key(&items[place]))','harmless(error)',['--test','retry']),
('breaker_cancel',L+'circuit_breaker.rs','if self.probe && !self.judged {','if false {',['--test','guards']),
('breaker_reset',L+'circuit_breaker.rs','false => Circuit::Closed { failures: 0 },','false => Circuit::Closed { failures },',['--test','guards']),
('rate',L+'rate_limit.rs','.saturating_sub(self.burst.max(cost))','.saturating_sub(self.burst.max(cost) * 2)',['--test','guards']),
('concurrency_queue',L+'concurrency.rs','before >= self.config.queue','before > self.config.queue',['--test','guards']),
('timeout_unknown',L+'timeout.rs','error.with_outcome_unknown() } else','error } else',['--test','guards']),
('encrypt_place',L+'record.rs','["persist-encrypt/1", key_id, storage, key.as_str()]','["persist-encrypt/1", key_id, storage, ""]',['--test','encoded']),
('encrypt_last',L+'record.rs','if number + 1 == count','if number + 1 == count + 1',['--lib']),
('encrypt_commit',L+'record.rs','if differ == 0','if differ < 256',['--lib']),
('encrypt_hidden',L+'encrypt.rs','*notes = vec![format!("{}{envelope}", Self::MARK)];','notes.push(format!("{}{envelope}", Self::MARK));',['--test','encoded']),
('encrypt_plain',L+'encrypt.rs','if self.allow_plaintext {','if true {',['--test','encoded']),
('compress_note',L+'compress.rs','if body.is_none() && notes.last()','if false && notes.last()',['--test','encoded']),
('compress_smaller',L+'compress.rs','body.len() < data.len()','body.len() < data.len() * 2 + 999',['--test','encoded']),
('tiered_forget',L+'tiered.rs','self.forget(std::slice::from_ref(key)).await?;','',['--test','composites']),
('tiered_lane',L+'tiered.rs','let _lane = self.lanes.enter(key).await;\n','',['--test','composites']),
('tiered_suspect',L+'tiered.rs','Err(error) if error.outcome_unknown() => self.suspects.add(key),','',['--test','composites']),
('fallback_rule',L+'fallback.rs','self.on.contains(&error.kind())','true || self.on.contains(&error.kind())',['--test','composites']),
('namespace_key',L+'namespace.rs','Some(Ok(key)) => error.about_key(&key),','',['--test','conformance','C140']),
('plain_size',L+'plain.rs','metadata.size = self.size;','',['--test','conformance','C119']),
]
for name,f,a,b,args in M:
    if which and name not in which: continue
    p=os.path.join(root,f); s=open(p).read()
    if s.count(a)<1: print(name,'NOT FOUND',flush=True); continue
    open(p,'w').write(s.replace(a,b,1))
    t=time.time()
    try:
        r=subprocess.run(['cargo','test','-p','persist-layers','--all-features',*args],cwd=root,capture_output=True,text=True,timeout=200)
        out=r.stdout+r.stderr
        fails=sorted({l.split()[1] for l in out.splitlines() if l.startswith('test ') and 'FAILED' in l and not l.startswith('test result')})
        comp='COMPILE ERROR' if 'could not compile' in out else ''
        print(name,'caught' if r.returncode and fails else 'SURVIVED',comp,fails[:6],len(fails),f'{time.time()-t:.0f}s',flush=True)
    except subprocess.TimeoutExpired:
        print(name,'TIMEOUT (caught?)',flush=True)
    finally:
        open(p,'w').write(s)
